"""The plain generation loop that the engines are measured against.

It does what the public code of Janus and of RL projects on Janus does. It uses transformers modules
and a ``DynamicCache`` that grows by copying. It reads the prompt once for each member of a group.
It pads image prompts between text and ``<begin_of_image>`` to the longest of the batch. Conditional
and unconditional rows are interleaved, and full logits of both go through softmax and multinomial.
It returns token ids and pixels. It computes no log-probs and no entropies: the public code computes
them later in a separate pass.

Shape legend: B = trajectories, R = 2 B rows (conditional, unconditional, conditional, ...),
L = positions, N = image tokens, D = hidden size, V = image codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.types import IntArray, Prompt


@dataclass(frozen=True)
class PlainSample:
    """What the loop gives of one trajectory."""

    cot_ids: IntArray
    image_ids: IntArray
    image: NDArray[np.uint8]


class PlainLoop:
    """Both phases of a batch of trajectories, one after the other."""

    def __init__(self, policy: JanusPolicy, encoder: PromptEncoder) -> None:
        self._policy = policy
        self._encoder = encoder

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[PlainSample]:
        """One sample per prompt; repeat a prompt to get its group."""
        encoder = self._encoder
        cots = self._cots([encoder.cot_prompt_ids(prompt) for prompt in prompts], sampling)
        image_prompts = [
            encoder.image_prompt_ids(prompt, encoder.cot_text(cot))
            for prompt, cot in zip(prompts, cots, strict=True)
        ]
        image_ids_BN = self._images(image_prompts, sampling)
        pixels = self._policy.decode(image_ids_BN)
        return [
            PlainSample(cot, ids, image)
            for cot, ids, image in zip(cots, image_ids_BN.cpu().numpy(), pixels, strict=True)
        ]

    def _cots(self, prompts: Sequence[IntArray], sampling: Sampling) -> list[IntArray]:
        special = self._encoder.special
        longest = max(map(len, prompts))
        ids_BL = torch.full((len(prompts), longest), special.pad)
        for row, prompt in zip(ids_BL, prompts, strict=True):
            row[longest - len(prompt) :] = torch.from_numpy(prompt)
        generated: Any = self._policy.model.generate(
            ids_BL.to(self._policy.device),
            attention_mask=(ids_BL != special.pad).long().to(self._policy.device),
            generation_mode="text",
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.max_cot_tokens,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
        )
        cots = []
        for row in generated[:, longest:].int().cpu().numpy():
            ends = np.flatnonzero(row == special.eos)
            cots.append(row[: ends[0] + 1] if len(ends) else row)
        return cots

    def _images(self, prompts: Sequence[IntArray], sampling: Sampling) -> Tensor:
        policy = self._policy
        ids_RL, mask_RL = self._interleaved(prompts)
        embedding_RLD = policy.embed_text(ids_RL)
        cache = DynamicCache()
        image_ids_BN = torch.empty(
            len(prompts), policy.num_image_tokens, dtype=torch.long, device=policy.device
        )
        for n in range(policy.num_image_tokens):
            hidden_RLD = policy.hidden_states(embedding_RLD, mask_RL, cache=cache)
            logits_RV = policy.model.model.generation_head(hidden_RLD[:, -1])
            conditional_BV, unconditional_BV = logits_RV[0::2], logits_RV[1::2]
            guided_BV = unconditional_BV + sampling.guidance_scale * (
                conditional_BV - unconditional_BV
            )
            probability_BV = torch.softmax(guided_BV / sampling.temperature, dim=-1)
            ids_B1 = torch.multinomial(probability_BV, num_samples=1)
            image_ids_BN[:, n] = ids_B1.squeeze(1)
            embedding_RLD = policy.embed_image(ids_B1.repeat_interleave(2, dim=0))
            mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(mask_RL), 1)], dim=1)
        return image_ids_BN

    def _interleaved(self, prompts: Sequence[IntArray]) -> tuple[Tensor, Tensor]:
        special = self._encoder.special
        longest = max(map(len, prompts))
        ids_RL = torch.full((2 * len(prompts), longest), special.pad)
        mask_RL = torch.zeros_like(ids_RL)
        for b, prompt in enumerate(prompts):
            text = torch.from_numpy(prompt[:-1])
            ids_RL[2 * b, : len(text)] = text
            ids_RL[2 * b + 1, 0] = text[0]
            mask_RL[2 * b : 2 * b + 2, : len(text)] = 1
        ids_RL[:, -1] = special.begin_of_image
        mask_RL[:, -1] = 1
        return ids_RL.to(self._policy.device), mask_RL.to(self._policy.device)
