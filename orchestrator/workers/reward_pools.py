"""Scores groups with all rewards. Each reward has a pool of its own, and no pool waits for another.

Failure policy: see ``orchestrator.workers.reward_pool``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import ray

from orchestrator.settings.worker_settings import WorkerSettings
from orchestrator.workers.placement import ANYWHERE, Places
from orchestrator.workers.reward_pool import RewardPool, Usage
from orchestrator.workers.reward_round import Round
from orchestrator.workers.rollout_events import GroupRef
from orchestrator.workers.worker_pool import wait_loaded
from policy.types import Prompt, RewardResult
from rewards.cache import resolve_cache
from rewards.scored_group import ScoredGroup
from rewards.totals import weighted_totals


@dataclass
class _Scoring:
    """Groups that are scored together: a round in every pool."""

    prompts: Sequence[Prompt]
    rounds: dict[str, Round]
    waiting: set[int]  # places of groups that are added and not scored yet


class RewardPools:
    """One ``RewardPool`` for each reward; together they start and end as one pool does."""

    def __init__(self, config: WorkerSettings, places: Places = ANYWHERE) -> None:
        self.weights = {reward.name: reward.weight for reward in config.rewards}
        self._start_timeout_s = config.cluster.start_timeout_s
        cache = resolve_cache(config.cache)
        # All are created before any is waited for, so that they load at the same time.
        self.pools = {
            reward.name: RewardPool(
                reward, cache, self._start_timeout_s, config.deterministic, places
            )
            for reward in config.rewards
        }
        self._scorings: dict[Hashable, _Scoring] = {}

    def wait_ready(self) -> dict[str, str | None]:
        """Block until every worker of every pool has built its reward.

        Returns the digest of each reward's weights, of those rewards that have one.
        """
        workers = [name for name, pool in self.pools.items() for _ in pool.workers]
        digests = wait_loaded(list(self.pools.values()), self._start_timeout_s)
        return dict(zip(workers, digests, strict=True))

    # Orders

    def begin(
        self,
        key: Hashable,
        prompts: Sequence[Prompt],
        size: int,
        remember: bool = False,
        counted: bool = True,
    ) -> None:
        """Begin to score groups of ``size`` trajectories, one of each prompt, as they are added.

        ``remember`` has the workers read and fill the score cache. ``take_usage`` tells of the work
        if it is ``counted``.
        """
        sizes = [size] * len(prompts)
        rounds = {name: pool.begin(sizes, remember, counted) for name, pool in self.pools.items()}
        self._scorings[key] = _Scoring(prompts, rounds, set())

    def add(self, key: Hashable, place: int, group: GroupRef) -> None:
        """Score this group of ``key``, whose prompt is at ``place``; the pools fetch it."""
        scoring = self._scorings[key]
        scoring.waiting.add(place)
        for round in scoring.rounds.values():
            round.add(place, group)

    def forget(self, key: Hashable, places: Sequence[int]) -> None:
        """These groups are lost. Their scores are void, and they will be added again."""
        scoring = self._scorings[key]
        scoring.waiting -= set(places)
        for round in scoring.rounds.values():
            round.forget(places)

    def drop(self, key: Hashable, place: int) -> None:
        """This group will never be added; those that are scored together with it wait no longer."""
        scoring = self._scorings[key]
        scoring.waiting.discard(place)
        for round in scoring.rounds.values():
            round.drop(place)

    def end(self, key: Hashable) -> None:
        """Forget the groups of ``key``, scored or not, and the references to them."""
        scoring = self._scorings.pop(key, None)
        if scoring is not None:
            for name, pool in self.pools.items():
                pool.end(scoring.rounds[name])

    # What happens

    @property
    def states(self) -> dict[str, str]:
        """Starting, scoring or idle, by the name of the worker."""
        return {name: state for pool in self.pools.values() for name, state in pool.states.items()}

    @property
    def calls(self) -> list[ray.ObjectRef]:
        """Calls whose answers the pools wait for."""
        return [call for pool in self.pools.values() for call in pool.calls]

    @property
    def wake_at(self) -> float:
        """The monotonic time at which ``advance`` has something to do even if no answer comes."""
        return min(pool.wake_at for pool in self.pools.values())

    def advance(self) -> None:
        """Replace workers that are late, and hand out batches to idle ones. Never blocks."""
        for pool in self.pools.values():
            pool.advance()

    def receive(self, call: ray.ObjectRef) -> None:
        """Take one of ``calls`` whose answer lies on this machine. Never blocks."""
        next(pool for pool in self.pools.values() if call in pool.calls).receive(call)

    def take_scored(self) -> list[tuple[Hashable, int, ScoredGroup]]:
        """Groups that every reward has scored since the last call: key, place and scores."""
        done: list[tuple[Hashable, int, ScoredGroup]] = []
        for key, scoring in self._scorings.items():
            for place in sorted(scoring.waiting):
                results: dict[str, tuple[RewardResult, ...]] = {}
                for name, round in scoring.rounds.items():
                    if (of_reward := round.result(place)) is None:
                        break
                    results[name] = of_reward
                else:
                    scoring.waiting.remove(place)
                    totals = tuple(weighted_totals(results, self.weights))
                    done.append((key, place, ScoredGroup(scoring.prompts[place], totals, results)))
        return done

    def take_lost(self) -> list[tuple[Hashable, int]]:
        """Groups that were found to be gone since the last call: key and place."""
        lost = []
        for name, pool in self.pools.items():
            of_pool, pool.lost = pool.lost, []
            lost += [
                (key, place)
                for round, place in of_pool
                for key, scoring in self._scorings.items()
                if scoring.rounds[name] is round
            ]
        return lost

    def take_failures(self) -> list[str]:
        """Why workers of all pools were replaced since the last call."""
        return [reason for pool in self.pools.values() for reason in pool.take_failures()]

    def take_usage(self) -> dict[str, Usage]:
        """What each reward's pool has done since the last call."""
        usage = {name: pool.usage for name, pool in self.pools.items()}
        for pool in self.pools.values():
            pool.usage = Usage()
        return usage

    def close(self) -> None:
        """End the workers' processes; a second call does nothing."""
        for pool in self.pools.values():
            pool.close()
