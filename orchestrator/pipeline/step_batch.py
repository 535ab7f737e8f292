"""The batch of one step: groups that are sampled, scored and large enough to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learner.algorithm.advantages import group_advantages
from learner.shares import TrainingGroup
from orchestrator.workers.rollout_events import GroupRef
from rewards.config import RewardConfig
from rewards.scored_group import ScoredGroup
from rewards.totals import training_totals

if TYPE_CHECKING:
    from orchestrator.workers.reward_pool import Usage


@dataclass(frozen=True)
class StepBatch:
    """What a step trains on, in the order of its prompts, and the groups that were dropped."""

    groups: list[GroupRef]
    scored: list[ScoredGroup]
    advantages: list[list[float | None]]
    dropped: list[ScoredGroup]
    # What each reward's pool did since the last step.
    usage: Mapping[str, Usage]
    # The workers of each role; there are none in a replay.
    workers: Mapping[str, int]

    @property
    def training_groups(self) -> list[TrainingGroup]:
        """The groups and their advantages, in the form that the learner takes."""
        return [
            TrainingGroup(group.ref, tuple(values))
            for group, values in zip(self.groups, self.advantages, strict=True)
        ]


def step_batch(
    groups: list[GroupRef],
    scored: list[ScoredGroup],
    dropped: list[ScoredGroup],
    usage: Mapping[str, Usage],
    rewards: Sequence[RewardConfig],
    minimum: int,
    workers: Mapping[str, int],
) -> StepBatch:
    """The batch with its advantages; each group has ``minimum`` scored trajectories or more."""
    advantages = []
    for totals in training_totals(scored, rewards):
        values = group_advantages(totals.values, minimum, totals.size)
        assert values is not None  # groups with fewer survivors were dropped
        advantages.append(values)
    return StepBatch(groups, scored, advantages, dropped, usage, workers)
