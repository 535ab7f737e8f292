"""Pools on the cluster of the test session, and groups of plain images to score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.pipeline.roles import Pool
from orchestrator.settings.run_config import load_config
from orchestrator.workers.learner_group import LearnerGroup, PublishedWeights
from orchestrator.workers.publisher import WeightPublisher
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WorkerLost,
)
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import wait_answers
from policy.types import Group, Prompt
from rewards.config import CacheConfig, RewardConfig
from rewards.scored_group import ScoredGroup
from rewards.worker import NO_CACHE
from rollout.engine import GenerationRequest
from tests.image_groups import image_group

SHAPES = Path(__file__).parents[1] / "configs" / "shapes.yaml"


def reward(factory: str, name: str = "light", **settings: Any) -> RewardConfig:
    settings = {"cpus_per_worker": 0.1, "retry_delay_s": 0.01} | settings
    return RewardConfig(name=name, factory=f"tests.faulty_rewards:{factory}", **settings)


def reward_pools(
    *rewards: RewardConfig,
    cache: CacheConfig = NO_CACHE,
    start_timeout_s: float = 300,
) -> RewardPools:
    """Pools of these rewards in an otherwise ordinary run."""
    config = load_config(SHAPES, [f"cluster.start_timeout_s={start_timeout_s}"])
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


def take_turns(pool: Pool, until: Callable[[], bool], timeout_s: float = 120) -> None:
    """Hand out work and take answers, as ``Stages`` does, until what is waited for is there."""
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "what is waited for did not come"
        pool.advance()
        for call in wait_answers(pool.calls, min(0.2, max(0.0, pool.wake_at - time.monotonic()))):
            pool.receive(call)


def scores_of(
    pools: RewardPools, groups: Sequence[GroupRef], remember: bool = False
) -> list[ScoredGroup]:
    """The scores of groups of equal size, which are all there at the start."""
    pools.begin("all", [group.prompt for group in groups], groups[0].size, remember)
    for place, group in enumerate(groups):
        pools.add("all", place, group)
    try:
        return take_scored(pools, len(groups))
    finally:
        pools.end("all")


def take_scored(pools: RewardPools, count: int) -> list[ScoredGroup]:
    """The next so many groups that every reward has scored, in the order of their places."""
    found: dict[int, ScoredGroup] = {}

    def enough() -> bool:
        found.update({place: group for _, place, group in pools.take_scored()})
        return len(found) >= count

    take_turns(pools, enough)
    return [found[place] for place in sorted(found)]


def take_event(rollout: RolloutPool, kind: type[RolloutEvent]) -> Any:
    """The next event of this kind; those before it are dropped. A lost worker is one only if it
    is asked for."""
    found: list[RolloutEvent] = []

    def came() -> bool:
        for event in rollout.take_events():
            assert kind is WorkerLost or not isinstance(event, WorkerLost), event
            if isinstance(event, kind):
                found.append(event)
        return bool(found)

    take_turns(rollout, came)
    return found[0]


def sampled(
    rollout: RolloutPool, worker: str, requests: Sequence[GenerationRequest]
) -> list[GroupRef]:
    """The groups that a worker samples for the requests."""
    rollout.sample(worker, requests)
    groups: list[GroupRef] = take_event(rollout, BatchSampled).groups
    return groups


def published(
    publisher: WeightPublisher, learner: LearnerGroup, weight_version: int
) -> PublishedWeights:
    """The learner's weights, all of which are in the object store."""
    weights = publisher.publish(learner, weight_version)
    publisher.complete(learner, weights)
    return weights


def loaded(
    rollout: RolloutPool, worker: str, weights: PublishedWeights, publisher: WeightPublisher
) -> float:
    """The gap of a worker's probe once it has loaded the weights; raises what the check raises."""
    rollout.bring(weights)
    rollout.load(worker, weights)
    return publisher.check(worker, take_event(rollout, WeightsLoaded).receipt)
