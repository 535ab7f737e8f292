"""The engine that runs transformers' own modules, in batches, on any device of torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.low_rank import Receiver
from policy.probe import WeightReceipt, probe_logprobs
from policy.sampling import Sampling
from policy.types import Group, Prompt, Trajectory
from policy.weights import WeightBuckets
from rollout.config import RolloutConfig
from rollout.cot import sample_cots
from rollout.engine import EngineIdentity, GenerationRequest
from rollout.image import sample_images


@dataclass(frozen=True)
class _Slot:
    """One trajectory to be generated."""

    prompt: Prompt
    index_in_group: int
    seed: int


class TransformersEngine:
    """Samples from a ``JanusPolicy`` that it owns; see ``rollout.engine.Engine``."""

    def __init__(self, policy: JanusPolicy, encoder: PromptEncoder, config: RolloutConfig) -> None:
        self._policy = policy
        self._encoder = encoder
        self._config = config
        self._receiver = Receiver()
        self._weight_version = 0

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        """One group per request. The trajectories of all requests are cut into batches in order,
        so that a group may be spread over two batches."""
        slots = [
            _Slot(request.prompt, index, seed)
            for request in requests
            for index, seed in enumerate(request.seeds)
        ]
        size = self._config.batch_size
        trajectories = iter(
            [
                trajectory
                for start in range(0, len(slots), size)
                for trajectory in self._batch(
                    slots[start : start + size], sampling or self._config.sampling
                )
            ]
        )
        return [
            Group(request.prompt, tuple(next(trajectories) for _ in request.seeds))
            for request in requests
        ]

    def load_weights(self, weights: WeightBuckets, weight_version: int) -> WeightReceipt:
        """Replace the trained part; raises ``ValueError`` and changes nothing if it cannot."""
        checksum = self._receiver.load(self._policy.trained_parameters(), weights)
        self._weight_version = weight_version
        probe = probe_logprobs(self._policy, self._encoder.special)
        return WeightReceipt(weight_version, checksum, probe)

    def sleep(self) -> None:
        """Move the policy to host memory; on a CPU it is there already."""
        self._policy.to("cpu")
        if self._config.device == "cuda":
            # Without this call the allocator would keep the freed memory for this process.
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._policy.to(self._config.device)

    def identity(self) -> EngineIdentity:
        policy = self._policy
        return EngineIdentity(
            engine="transformers",
            torch_version=torch.__version__,
            transformers_version=transformers.__version__,
            dtype=str(policy.dtype).removeprefix("torch."),
            device=str(policy.device),
            host=socket.gethostname(),
            pid=os.getpid(),
            weight_version=self._weight_version,
            num_parameters=sum(p.numel() for p in policy.parameters()),
            num_trained_parameters=sum(p.numel() for _, p in policy.trained_parameters()),
            text_vocab_size=policy.text_vocab_size,
            num_codes=policy.num_codes,
            image_grid=policy.image_grid,
        )

    @torch.inference_mode()
    def _batch(self, slots: Sequence[_Slot], sampling: Sampling) -> list[Trajectory]:
        policy, encoder = self._policy, self._encoder
        seeds = [slot.seed for slot in slots]
        cot_prompts = [encoder.cot_prompt_ids(slot.prompt) for slot in slots]
        cots = sample_cots(policy, encoder.special.eos, cot_prompts, seeds, sampling)
        texts = [encoder.cot_text(cot.ids) for cot in cots]
        image_prompts = [
            encoder.image_prompt_ids(slot.prompt, text)
            for slot, text in zip(slots, texts, strict=True)
        ]
        images = sample_images(policy, encoder.special, image_prompts, seeds, sampling)
        pixels = policy.decode(torch.from_numpy(images.ids).to(policy.device))
        return [
            Trajectory(
                prompt_id=slot.prompt.id,
                index_in_group=slot.index_in_group,
                weight_version=self._weight_version,
                seed=slot.seed,
                cot_prompt_ids=cot_prompts[b],
                cot_ids=cots[b].ids,
                cot_logprobs=cots[b].logprobs,
                cot_entropies=cots[b].entropies,
                cot_text=texts[b],
                image_prompt_ids=image_prompts[b],
                image_ids=images.ids[b],
                image_logprobs_conditional=images.logprobs_conditional[b],
                image_entropies_conditional=images.entropies_conditional[b],
                image_logprobs_guided=images.logprobs_guided[b],
                image_entropies_guided=images.entropies_guided[b],
                image=pixels[b],
                image_logprobs_unconditional=images.logprobs_unconditional[b],
            )
            for b, slot in enumerate(slots)
        ]


def load_transformers_engine(
    config: RolloutConfig,
    checkpoint: Path,
    template: str,
    instruction: str | None = None,
    dtype: str = "float32",
) -> TransformersEngine:
    """An engine on a checkpoint folder; raises ``UserError`` for one that cannot be used."""
    policy = load_policy(checkpoint, getattr(torch, dtype)).to(config.device)
    return TransformersEngine(policy, load_encoder(checkpoint, template, instruction), config)
