"""Reward pools on the cluster of the test session, and groups of plain images to score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.settings.run_config import load_config
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_pool import GroupRef
from policy.types import Group, Prompt
from rewards.config import CacheConfig, RewardConfig
from rewards.worker import NO_CACHE
from tests.image_groups import image_group

SHAPES = Path(__file__).parents[1] / "configs" / "shapes.yaml"


def reward(factory: str, name: str = "light", **settings: Any) -> RewardConfig:
    settings = {"cpus_per_worker": 0.1, "retry_delay_s": 0.01} | settings
    return RewardConfig(name=name, factory=f"tests.faulty_rewards:{factory}", **settings)


def reward_pools(
    *rewards: RewardConfig,
    cache: CacheConfig = NO_CACHE,
    start_timeout_s: float = 60,
    group_timeout_s: float = 60,
) -> RewardPools:
    """Pools of these rewards in an otherwise ordinary run."""
    timeouts = f"cluster.start_timeout_s={start_timeout_s} rollout.timeout_s={group_timeout_s}"
    config = load_config(SHAPES, timeouts.split())
    return RewardPools(config.model_copy(update={"rewards": rewards, "cache": cache}))


class Started:
    """Makes pools and ends their actors with the test."""

    def __init__(self) -> None:
        self._pools: list[RewardPools] = []

    def __call__(
        self, *rewards: RewardConfig, cache: CacheConfig = NO_CACHE, **timeouts_s: float
    ) -> RewardPools:
        pools = reward_pools(*rewards, cache=cache, **timeouts_s)
        self._pools.append(pools)
        pools.wait_ready()
        return pools

    def end(self) -> None:
        for pools in self._pools:
            pools.close()
        self._pools.clear()


def prompt(number: int) -> Prompt:
    return Prompt(id=f"p:{number}", text=f"picture {number}", task_type="color")


def groups_of(values: Sequence[Sequence[int]]) -> tuple[list[Group], list[GroupRef]]:
    groups = [image_group(prompt(place), row) for place, row in enumerate(values)]
    return groups, [GroupRef(g.prompt, ray.put(g), len(g.trajectories)) for g in groups]
