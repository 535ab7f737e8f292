"""Batches for measuring a learner without sampling: random tokens and random rewards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.trajectories import random_groups
from learner.algorithm.advantages import group_advantages
from learner.logprob_module import entropy_kernel
from learner.shares import GroupSlice, TrainingGroup
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.types import Group

STILL = 1e-12  # a learning rate: all who are compared keep seeing the same weights, the same work


@dataclass(frozen=True)
class BatchShape:
    """What is random about a batch, and what is not."""

    prompts: int
    group_size: int
    cot: int  # tokens of the longest CoT; the shortest has half of them
    prompt: tuple[int, int]  # tokens of the shortest and the longest prompt, BOS apart


def random_batch(
    policy: JanusPolicy, special: SpecialIds, shape: BatchShape, sampling: Sampling
) -> list[GroupSlice]:
    """Random CoTs and images, with the records of the policy's own forward pass."""
    counts = np.random.default_rng(0).integers(
        (shape.cot + 1) // 2, shape.cot + 1, size=(shape.prompts, shape.group_size)
    )
    groups = random_groups(
        policy,
        counts.tolist(),
        sampling=sampling,
        special=special,
        prompt_lengths=shape.prompt,
        kernel=entropy_kernel,
    )
    return rewarded(groups)


def rewarded(groups: Iterable[Group]) -> list[GroupSlice]:
    """The groups with the advantages of normally distributed rewards, as one rank's share."""
    rng = np.random.default_rng(0)
    batch = []
    for group in groups:
        rewards = rng.normal(size=len(group.trajectories)).tolist()
        advantages = group_advantages(rewards, minimum_survivors=2) or []
        batch.append(
            GroupSlice(TrainingGroup(group, tuple(advantages)), tuple(range(len(advantages))))
        )
    return batch
