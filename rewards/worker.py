"""The reward worker: one reward behind a Ray actor.

Failure policy. A worker keeps no state between calls. What a reward does wrong to an image comes
back as that image's ``RewardFailure``; ``score`` itself does not raise. A worker that dies or
misses ``timeout_s`` surfaces at the caller, which stops the run with its name. A reward that
cannot be built kills the actor in its constructor, with the ``UserError`` as cause;
``rewards.factory.check_factory`` finds most such cases before.
Nothing here imports torch: a reward that needs none starts quickly and stays small.
"""

from __future__ import annotations

from typing import Any

import ray

from policy.runtime import keep_freed_memory
from policy.types import Group, RewardResult
from rewards.config import RewardConfig
from rewards.factory import build_reward
from rewards.scoring import RewardScorer


class RewardWorker:
    """Scores whole groups with the reward that the settings name."""

    def __init__(self, config: RewardConfig) -> None:
        keep_freed_memory()
        self._scorer = RewardScorer(build_reward(config), config.batch_size)

    def ready(self) -> None:
        """Answers once the reward is built."""

    def score(self, *groups: Group) -> list[list[RewardResult]]:
        """One result per trajectory, grouped as the trajectories are.

        Groups are arguments of their own, so that references to them can be passed instead.
        """
        results = iter(
            self._scorer.score(
                [trajectory.image for group in groups for trajectory in group.trajectories],
                [group.prompt for group in groups for _ in group.trajectories],
            )
        )
        return [[next(results) for _ in group.trajectories] for group in groups]


def start_reward_worker(config: RewardConfig) -> Any:
    """An actor handle on a ``RewardWorker``; returns before the worker is ready."""
    actor = ray.remote(RewardWorker).options(
        num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker, max_restarts=0
    )
    return actor.remote(config)
