"""The update that ``benchmarks/learner_step.py`` measures, and a check that it fits into memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import JanusConfig

from benchmarks.models import random_config, random_policy
from benchmarks.synthetic import STILL, BatchShape
from learner.config import AlgorithmConfig, LearnerConfig, LoraConfig
from learner.rank_settings import LearnerSettings
from orchestrator.settings.memory import GIB, Lengths, Memory, learner_memory
from orchestrator.settings.model_size import ModelSize
from policy.base_settings import Dtype
from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import SpecialIds
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.sampling import Sampling

SHAPES = Path(__file__).parent.parent / "shapes" / "checkpoint"
GUIDANCE = 5.0  # of the rollouts, where the guided distribution is trained


@dataclass(frozen=True)
class Size:
    """What a model is measured with where no option says otherwise."""

    prompts: int  # groups of 8 in an update
    micro_batch: int  # trajectories
    cot: int  # tokens of the longest CoT
    prompt: tuple[int, int]  # tokens of the shortest and the longest prompt


MODELS = {
    "shapes": Size(16, 32, 24, (5, 9)),  # configs/shapes.yaml
    "wide": Size(4, 8, 24, (5, 9)),
    "1b": Size(4, 8, 128, (60, 90)),  # a rank's share in configs/janus-pro-7b.yaml
    "7b": Size(4, 8, 128, (60, 90)),
}


@dataclass(frozen=True)
class Task:
    """A model, a batch and the learner's settings, before anything is allocated."""

    model: str
    learner: LearnerConfig
    dtype: Dtype
    shape: BatchShape
    distribution: str  # conditional or guided

    @staticmethod
    def of(
        model: str,
        device: str,
        dtype: Dtype,
        lora: int | None = None,
        gradient_checkpointing: bool = False,
        distribution: str = "conditional",
        prompts: int | None = None,
        micro_batch: int | None = None,
        cot: int | None = None,
    ) -> Task:
        size = MODELS[model]
        shape = BatchShape(prompts or size.prompts, 8, cot or size.cot, size.prompt)
        learner = LearnerConfig(
            micro_batch_size=min(micro_batch or size.micro_batch, shape.prompts * shape.group_size),
            learning_rate=STILL,
            schedule="constant",
            zero_stage=0 if dtype == "float32" else 2,
            lora=LoraConfig(rank=lora) if lora else None,
            gradient_checkpointing=gradient_checkpointing,
            device=device,
            gpus_per_rank=float(device == "cuda"),
        )
        return Task(model, learner, dtype, shape, distribution)

    @property
    def sampling(self) -> Sampling:
        """Of the rollouts."""
        return Sampling(GUIDANCE, 1.0, self.shape.cot)

    @property
    def training(self) -> str:
        return f"LoRA of rank {self.learner.lora.rank}" if self.learner.lora else "full fine-tuning"

    def settings(self, **algorithm: str) -> LearnerSettings:
        chosen = AlgorithmConfig(trained_distribution=self.distribution, **algorithm)
        return LearnerSettings(
            learner=self.learner,
            algorithm=chosen,
            checkpoint=Path(self.model),
            dtype=self.dtype,
            template="shapes",
            instruction=None,
            sampling=self.sampling,
            total_steps=1,
        )

    def planned(self) -> Memory:
        """What ``eg-grpo doctor --plan`` expects, less DeepSpeed's buckets: there are none here."""
        shapes = self.model == "shapes"
        config = JanusConfig.from_pretrained(SHAPES) if shapes else random_config(self.model)
        prompt, cot = self.shape.prompt[1] + 1, self.shape.cot
        memory = learner_memory(
            ModelSize.of(config),
            self.learner,
            Lengths(prompt, cot, prompt + cot),
            self.dtype,
            self.distribution == "guided",
        )
        working = {part: amount for part, amount in memory.working.items() if "ZeRO" not in part}
        return replace(memory, working=working)

    def refuse_what_cannot_fit(self) -> None:
        """Raise ``UserError`` when the plan asks for more than the device has."""
        planned, there = self.planned(), room(self.learner.device)
        if planned.total <= there:
            return
        parts = sorted((planned.held | planned.working).items(), key=lambda part: -part[1])
        named = ", ".join(f"{name} {n / GIB:.1f}" for name, n in parts if n > GIB / 10)
        less = self._smaller(activations_matter=sum(planned.held.values()) < there)
        raise UserError(
            f"{self.model}, {self.training} in {self.dtype}: a step needs about"
            f" {planned.total / GIB:.1f} GiB ({named}), {self.learner.device} has"
            f" {there / GIB:.1f}" + (f"; {' or '.join(less)} needs less" if less else "")
        )

    def _smaller(self, activations_matter: bool) -> list[str]:
        config = self.learner
        options = {
            "--dtype bfloat16": self.dtype == "float32",
            "--lora 16": config.lora is None,
            "--gradient-checkpointing": activations_matter and not config.gradient_checkpointing,
            "a smaller --micro-batch": activations_matter and config.micro_batch_size > 1,
        }
        return [option for option, helps in options.items() if helps]

    def policy(self) -> tuple[JanusPolicy, SpecialIds]:
        dtype, device = getattr(torch, self.dtype), self.learner.device
        if self.model != "shapes":
            return random_policy(self.model, dtype, device)
        return load_policy(SHAPES, dtype).to(device), load_encoder(SHAPES, "shapes").special


def room(device: str) -> int:
    """Bytes that are free on a GPU, or that the machine has."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
