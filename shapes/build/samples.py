"""Samples from a checkpoint in plain batches, to measure it without the rollout workers.

Rows are padded on the left. Attention masks leave the padding out, and positions do not count it.

Shape legend: B = rows, L = positions, N = image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from policy.distribution import guide, logprob_entropy
from policy.encoding import PromptEncoder, unconditional_twin
from policy.janus import JanusPolicy
from policy.types import IntArray, Prompt

MAX_COT = 24  # the longest CoT of pretraining has 18 tokens


@dataclass(frozen=True)
class Samples:
    """One CoT and one image for each of B rows."""

    cots: list[str]
    cot_entropies: list[NDArray[np.float32]]  # nats, one per CoT token
    image_ids_BN: NDArray[np.int64]
    image_entropies_BN: NDArray[np.float32]  # nats, conditional
    images: NDArray[np.uint8]  # B H W 3


@torch.no_grad()
def sample(
    policy: JanusPolicy,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    guidance_scale: float,
    generator: torch.Generator,
) -> Samples:
    """Sample one row for each prompt, at temperature 1 and from all tokens."""
    cot_prompts = [encoder.cot_prompt_ids(prompt) for prompt in prompts]
    ids, entropies = _sample_cots(policy, cot_prompts, encoder, generator)
    cots = [encoder.cot_text(row) for row in ids]
    image_prompts = [
        encoder.image_prompt_ids(prompt, cot) for prompt, cot in zip(prompts, cots, strict=True)
    ]
    image_ids, image_entropies = _sample_images(
        policy, image_prompts, encoder, guidance_scale, generator
    )
    return Samples(
        cots, entropies, image_ids.numpy(), image_entropies.numpy(), policy.decode(image_ids)
    )


class _Stream:
    """The rows that are being sampled, with their KV cache, attention mask and positions."""

    def __init__(self, policy: JanusPolicy, prompts: Sequence[IntArray], pad: int) -> None:
        length = max(len(prompt) for prompt in prompts)
        ids = np.full((len(prompts), length), pad, np.int64)
        mask = np.zeros(ids.shape, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = prompt
            mask[row, length - len(prompt) :] = 1
        self._policy = policy
        self._mask_BL = torch.from_numpy(mask)
        self._position_B = self._mask_BL.sum(1)
        self._cache = DynamicCache()
        positions_BL = (self._mask_BL.cumsum(1) - 1).clamp(min=0)
        embedded = policy.embed_text(torch.from_numpy(ids))
        self.hidden_BD = self._forward(embedded, positions_BL)

    def extend(self, embeddings_BD: Tensor) -> None:
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(embeddings_BD), 1)], 1)
        self.hidden_BD = self._forward(embeddings_BD[:, None], self._position_B[:, None])
        self._position_B = self._position_B + 1

    def _forward(self, embeddings_BLD: Tensor, positions_BL: Tensor) -> Tensor:
        return self._policy.hidden_states(
            embeddings_BLD, self._mask_BL, positions_BL, cache=self._cache
        )[:, -1]


def _sample_cots(
    policy: JanusPolicy,
    prompts: Sequence[IntArray],
    encoder: PromptEncoder,
    generator: torch.Generator,
) -> tuple[list[IntArray], list[NDArray[np.float32]]]:
    stream = _Stream(policy, prompts, encoder.special.pad)
    ids: list[list[int]] = [[] for _ in prompts]
    entropies: list[list[float]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    for _ in range(MAX_COT):
        token_B, entropy_B = _draw(policy.text_logits(stream.hidden_BD), generator)
        for row in range(len(prompts)):
            if running[row]:
                ids[row].append(int(token_B[row]))
                entropies[row].append(float(entropy_B[row]))
                running[row] = ids[row][-1] != encoder.special.eos
        if not any(running):
            break
        stream.extend(policy.embed_text(token_B))
    return [np.array(row, np.int32) for row in ids], [np.array(e, np.float32) for e in entropies]


def _sample_images(
    policy: JanusPolicy,
    prompts: Sequence[IntArray],
    encoder: PromptEncoder,
    guidance_scale: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    pad = encoder.special.pad
    conditional = _Stream(policy, prompts, pad)
    twins = [unconditional_twin(prompt, encoder.special) for prompt in prompts]
    unconditional = _Stream(policy, twins, pad) if guidance_scale != 1 else None
    tokens: list[Tensor] = []
    entropies: list[Tensor] = []
    for _ in range(policy.num_image_tokens):
        logits_BV = policy.image_logits(conditional.hidden_BD)
        entropies.append(logprob_entropy(logits_BV, logits_BV.argmax(-1))[1])
        if unconditional is not None:
            other_BV = policy.image_logits(unconditional.hidden_BD)
            logits_BV = guide(logits_BV, other_BV, guidance_scale)
        token_B, _ = _draw(logits_BV, generator)
        tokens.append(token_B)
        embedded_BD = policy.embed_image(token_B)
        conditional.extend(embedded_BD)
        if unconditional is not None:
            unconditional.extend(embedded_BD)
    return torch.stack(tokens, 1), torch.stack(entropies, 1)


def _draw(logits_BV: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    token_B = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]
    return token_B, logprob_entropy(logits_BV, token_B)[1]
