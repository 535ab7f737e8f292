"""Makes Janus policies with random weights directly on the device, without a file."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from benchmarks.gpu_check.task import Task
from benchmarks.models import random_policy, random_tokenizer
from benchmarks.small_models.random_janus import tiny_encoder, tiny_policy
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.sampling import PAPER_SAMPLING, Sampling
from policy.templates import template_named
from policy.types import Prompt
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

PROMPT_WORDS = 64  # as long as the instruction and a prompt of the paper's file
# Random heads are nearly uniform; enlarged so much, they have a favourite among their tokens.
HEAD_GAIN = 4.0


def janus(task: Task, size: str = "1b") -> tuple[JanusPolicy, PromptEncoder]:
    """A policy of ``size`` in bfloat16 on the task's device, the tiny one in a dry run."""
    if task.tiny:
        return tiny_policy().to(torch.bfloat16).to(task.device), tiny_encoder()
    policy, _ = random_policy(size, torch.bfloat16, task.device)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(HEAD_GAIN)
        policy.model.model.generation_head.vision_head.weight.mul_(HEAD_GAIN)
    return policy, PromptEncoder(random_tokenizer(size), template_named("shapes"))


def sampling_of(task: Task) -> Sampling:
    """The paper's, with a shorter CoT."""
    return replace(PAPER_SAMPLING, max_cot_tokens=task.sized(32, 4))


def engine(
    task: Task, policy: JanusPolicy, encoder: PromptEncoder, trajectories: int, sampling: Sampling
) -> TransformersEngine:
    """The rollout's own engine, all trajectories in one batch."""
    config = RolloutConfig(
        batch_size=trajectories,
        device=task.device,
        gpus_per_worker=float(task.device == "cuda"),
        **asdict(sampling),
    )
    return TransformersEngine(policy, encoder, config)


def requests(trajectories: int) -> list[GenerationRequest]:
    """Groups of 8, or one of fewer; with prompts of words that every random tokenizer has."""
    group = min(trajectories, 8)
    return [
        GenerationRequest(
            Prompt(
                id=f"random:{number}",
                text=" ".join(f"w{number + place}" for place in range(PROMPT_WORDS)),
                task_type="random",
            ),
            tuple(range(number * group, (number + 1) * group)),
        )
        for number in range(trajectories // group)
    ]
