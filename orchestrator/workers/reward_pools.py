"""Scores groups with all rewards. Each reward has a pool of its own, and no pool waits for another.

Failure policy: see ``orchestrator.workers.reward_pool``. A group that is not sampled in time stops
the run (``WorkerFailed``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.reward_pool import RewardPool, Usage
from orchestrator.workers.rollout_pool import GroupRef
from orchestrator.workers.waiting import WorkerFailed, wait_any
from orchestrator.workers.worker_pool import wait_loaded
from policy.types import Prompt, RewardResult
from rewards.cache import resolve_cache
from rewards.scored_group import ScoredGroup
from rewards.totals import weighted_totals


class RewardPools:
    """One ``RewardPool`` for each reward; together they start and end as one pool does."""

    def __init__(self, config: RunConfig) -> None:
        self.weights = {reward.name: reward.weight for reward in config.rewards}
        self._start_timeout_s = config.cluster.start_timeout_s
        # The longest wait for a group that is still being sampled.
        self._group_timeout_s = config.rollout.timeout_s
        cache = resolve_cache(config.cache)
        # All are created before any is waited for, so that they load at the same time.
        self.pools = {
            reward.name: RewardPool(reward, cache, self._start_timeout_s, config.deterministic)
            for reward in config.rewards
        }

    def wait_ready(self) -> None:
        """Block until every worker of every pool has built its reward."""
        wait_loaded(list(self.pools.values()), self._start_timeout_s)

    def score(self, groups: Sequence[GroupRef], remember: bool = False) -> list[ScoredGroup]:
        """Score every trajectory of the groups with every reward; the order is kept.

        Groups may still be on their way. Each pool scores those that have arrived, in batches.
        ``remember`` has the workers read and fill the score cache.
        """
        pools = list(self.pools.values())
        for pool in pools:
            pool.begin(groups, remember)
        arriving = {group.ref: place for place, group in enumerate(groups)}
        arrival_deadline = time.monotonic() + self._group_timeout_s
        timeout_s = 0.0  # the first turn only asks what is there already
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
        """End the workers' processes; a second call does nothing."""
        for pool in self.pools.values():
            pool.close()

    def _scored(self, prompt: Prompt, results: dict[str, tuple[RewardResult, ...]]) -> ScoredGroup:
        return ScoredGroup(prompt, tuple(weighted_totals(results, self.weights)), results)

    def take_usage(self) -> dict[str, Usage]:
        """What each reward's pool has done since the last call."""
        usage = {name: pool.usage for name, pool in self.pools.items()}
        for pool in self.pools.values():
            pool.usage = Usage()
        return usage
