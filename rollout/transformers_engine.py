"""The engine that runs transformers' own modules, in batches, on any device of torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers

from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.low_rank import Receiver
from policy.probe import probe_logprobs
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, IntArray, Prompt, Trajectory
from policy.weights import WeightBuckets
from rollout.config import RolloutConfig
from rollout.cot import CotSample, sample_cots
from rollout.drawing import image_seed
from rollout.engine import EngineIdentity, GenerationRequest
from rollout.image import sample_images


@dataclass(frozen=True)
class _Slot:
    """One trajectory to be generated."""

    prompt: Prompt
    index_in_group: int
    seed: int


@dataclass(frozen=True)
class _Planned:
    """One trajectory whose image is still to be drawn."""

    slot: _Slot
    cot_prompt_ids: IntArray
    cot: CotSample
    cot_text: str
    image_prompt_ids: IntArray


class TransformersEngine:
    """Samples from a ``JanusPolicy`` that it owns; see ``rollout.engine.Engine``."""

    def __init__(self, policy: JanusPolicy, encoder: PromptEncoder, config: RolloutConfig) -> None:
        self._policy = policy
        self._encoder = encoder
        self._config = config
        self._receiver = Receiver(movable=True)
        self._weight_version = 0

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        """One group per request. The trajectories of all requests are cut into batches in order,
        so that a group may be spread over two batches."""
        (groups,) = self.generate_at_scales(requests, [sampling or self._config.sampling])
        return groups

    def generate_at_scales(
        self, requests: Sequence[GenerationRequest], samplings: Sequence[Sampling]
    ) -> list[list[Group]]:
        """For each sampling what ``generate`` returns. They differ by their guidance scale alone:
        it has no effect on CoTs, so these are drawn only once."""
        slots = [
            _Slot(request.prompt, index, seed)
            for request in requests
            for index, seed in enumerate(request.seeds)
        ]
        size = self._config.batch_size
        drawn: list[list[Trajectory]] = [[] for _ in samplings]
        for start in range(0, len(slots), size):
            plans = self._plans(slots[start : start + size], samplings[0])
            for trajectories, sampling in zip(drawn, samplings, strict=True):
                trajectories += self._drawn(plans, sampling)
        return [_grouped(requests, trajectories) for trajectories in drawn]

    def generate_per_cot(
        self, prompt: Prompt, seeds: Sequence[int], images: int, sampling: Sampling
    ) -> Group:
        """Draw ``images`` images for each of ``len(seeds)`` CoTs, each of which is drawn once.

        The images of a CoT stand side by side in the group. The first of them is the image that
        ``generate`` draws for the CoT's seed. A trajectory's ``seed`` is that of its image.
        """
        size = self._config.batch_size
        slots = [_Slot(prompt, images * place, seed) for place, seed in enumerate(seeds)]
        planned = [
            replace(plan, slot=_of_image(plan.slot, place))
            for start in range(0, len(slots), size)
            for plan in self._plans(slots[start : start + size], sampling)
            for place in range(images)
        ]
        return Group(
            prompt,
            tuple(
                trajectory
                for start in range(0, len(planned), size)
                for trajectory in self._drawn(planned[start : start + size], sampling)
            ),
        )

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
            torch_version=str(torch.__version__),  # torch has a class for it
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
    def _plans(self, slots: Sequence[_Slot], sampling: Sampling) -> list[_Planned]:
        encoder = self._encoder
        if sampling.max_cot_tokens == 0:
            return [_without_cot(slot, encoder) for slot in slots]
        prompts = [encoder.cot_prompt_ids(slot.prompt) for slot in slots]
        seeds = [slot.seed for slot in slots]
        cots = sample_cots(self._policy, encoder.special.eos, prompts, seeds, sampling)
        texts = [encoder.cot_text(cot.ids) for cot in cots]
        return [
            _Planned(slot, prompt, cot, text, encoder.image_prompt_ids(slot.prompt, text))
            for slot, prompt, cot, text in zip(slots, prompts, cots, texts, strict=True)
        ]

    @torch.inference_mode()
    def _drawn(self, plans: Sequence[_Planned], sampling: Sampling) -> list[Trajectory]:
        policy = self._policy
        prompts = [plan.image_prompt_ids for plan in plans]
        seeds = [plan.slot.seed for plan in plans]
        images = sample_images(policy, self._encoder.special, prompts, seeds, sampling)
        pixels = policy.decode(torch.from_numpy(images.ids).to(policy.device))
        return [
            Trajectory(
                prompt_id=plan.slot.prompt.id,
                index_in_group=plan.slot.index_in_group,
                weight_version=self._weight_version,
                seed=plan.slot.seed,
                cot_prompt_ids=plan.cot_prompt_ids,
                cot_ids=plan.cot.ids,
                cot_logprobs=plan.cot.logprobs,
                cot_entropies=plan.cot.entropies,
                cot_text=plan.cot_text,
                image_prompt_ids=plan.image_prompt_ids,
                image_ids=images.ids[b],
                image_logprobs_conditional=images.logprobs_conditional[b],
                image_entropies_conditional=images.entropies_conditional[b],
                image_logprobs_guided=images.logprobs_guided[b],
                image_entropies_guided=images.entropies_guided[b],
                image=pixels[b],
                image_logprobs_unconditional=images.logprobs_unconditional[b],
            )
            for b, plan in enumerate(plans)
        ]


def _grouped(
    requests: Sequence[GenerationRequest], trajectories: Sequence[Trajectory]
) -> list[Group]:
    """The trajectories of all requests, in order, as one group per request."""
    following = iter(trajectories)
    return [
        Group(request.prompt, tuple(next(following) for _ in request.seeds)) for request in requests
    ]


def _of_image(slot: _Slot, place: int) -> _Slot:
    """The slot of image ``place`` of a CoT, whose own slot is that of its first image."""
    return replace(
        slot, index_in_group=slot.index_in_group + place, seed=image_seed(slot.seed, place)
    )


def _without_cot(slot: _Slot, encoder: PromptEncoder) -> _Planned:
    no_ids, no_records = np.zeros(0, np.int32), np.zeros(0, np.float32)
    cot = CotSample(no_ids, no_records, no_records)
    return _Planned(slot, no_ids, cot, "", encoder.image_prompt_ids(slot.prompt, None))


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
