"""All rewards of some groups: one pool for each reward, none of which waits for another.

Failure policy: see ``orchestrator.workers.reward_pool``. A group that is not there in time stops
the run (``WorkerFailed``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.workers.reward_pool import RewardPool, Usage
from orchestrator.workers.rollout_pool import GroupRef
from orchestrator.workers.starting import wait_started
from orchestrator.workers.waiting import WorkerFailed, wait_any
from policy.types import Prompt, RewardResult
from rewards.cache import resolve_cache
from rewards.config import CacheConfig, RewardConfig
from rewards.scored_group import ScoredGroup
from rewards.totals import weighted_totals


class RewardPools:
    """One pool of workers for each reward."""

    def __init__(
        self,
        configs: Sequence[RewardConfig],
        cache: CacheConfig,
        start_timeout_s: float,
        group_timeout_s: float,
        deterministic: bool = False,
    ) -> None:
        """``group_timeout_s`` bounds the wait for a group that is still being sampled."""
        self.configs = configs
        self.weights = {config.name: config.weight for config in configs}
        self._start_timeout_s = start_timeout_s
        self._group_timeout_s = group_timeout_s
        resolved = resolve_cache(cache)
        self.pools = {
            config.name: RewardPool(config, resolved, start_timeout_s, deterministic)
            for config in configs
        }

    def wait_ready(self) -> None:
        """Block until every worker of every pool has built its reward."""
        wait_started([pool.starting for pool in self.pools.values()], self._start_timeout_s)

    def score(self, groups: Sequence[GroupRef], remember: bool = False) -> list[ScoredGroup]:
        """Score every trajectory of the groups with every reward; order is kept.

        Groups may still be on their way: each pool scores those that are there, in batches.
        ``remember`` has the workers read and fill the score cache.
        """
        pools = list(self.pools.values())
        for pool in pools:
            pool.begin(groups, remember)
        arriving = {group.ref: place for place, group in enumerate(groups)}
        arrival_deadline = time.monotonic() + self._group_timeout_s
        timeout_s = 0.0  # first of all, learn what is there already
        while True:
            calls = {call: pool for pool in pools for call in pool.calls}
            arrived, answered = wait_any(list(arriving), list(calls), timeout_s)
            places = sorted(arriving.pop(ref) for ref in arrived)
            for call in answered:
                calls[call].receive(call)
            for pool in pools:
                pool.add(places, last=not arriving)
                pool.advance()
            if all(pool.done for pool in pools):
                break
            now = time.monotonic()
            if arriving and now >= arrival_deadline:
                late = groups[min(arriving.values())].prompt.id
                raise WorkerFailed(f"prompt {late}: no group within {self._group_timeout_s:g} s")
            wake_at = min([pool.wake_at for pool in pools] + [arrival_deadline] * bool(arriving))
            timeout_s = max(0.0, wake_at - now)
        results = {name: pool.finish() for name, pool in self.pools.items()}
        return [
            self._scored(group.prompt, {name: of_pool[place] for name, of_pool in results.items()})
            for place, group in enumerate(groups)
        ]

    def close(self) -> None:
        """End every worker's process; again, it does nothing."""
        for pool in self.pools.values():
            pool.close()

    def _scored(self, prompt: Prompt, results: dict[str, tuple[RewardResult, ...]]) -> ScoredGroup:
        return ScoredGroup(prompt, tuple(weighted_totals(results, self.weights)), results)

    def take_usage(self) -> dict[str, Usage]:
        """What each reward's pool did since this was last asked."""
        usage = {name: pool.usage for name, pool in self.pools.items()}
        for pool in self.pools.values():
            pool.usage = Usage()
        return usage
