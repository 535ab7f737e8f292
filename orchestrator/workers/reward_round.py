"""One round of scoring with one reward: groups cut into batches, dealt out, and what came back.

Determinism. Batches are cut and dealt out by position alone, and a retried batch is never merged
with another: without faults, every run scores the same images together on the same worker.

A batch knows its round. What a worker still does for a round that was given up changes that round
alone, which nobody reads any more.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.workers.rollout_pool import GroupRef
from policy.types import RewardFailure, RewardResult
from rewards.config import RewardConfig

_LONGEST_DELAY_S = 60.0
_jitter = random.Random()  # decides when a batch is retried, never what it scores


@dataclass(frozen=True)
class Batch:
    """What one worker scores in one call: members of some groups, by the groups' places."""

    round: Round
    members: tuple[tuple[int, tuple[int, ...]], ...]
    home: int  # the worker that should score it
    attempt: int = 1
    not_before: float = 0.0


class Round:
    """Groups that are scored together by a number of workers."""

    def __init__(
        self,
        groups: Sequence[GroupRef],
        config: RewardConfig,
        workers: int,
        remember: bool,
    ) -> None:
        """``remember`` has the workers read and fill the score cache."""
        largest = max((group.size for group in groups), default=1)
        share = math.ceil(len(groups) / workers)
        self.groups = groups
        self.remember = remember
        self._config = config
        self._workers = workers
        self._groups_per_batch = max(1, min(config.batch_size // largest, share))
        self._results: list[list[RewardResult | None]] = [[None] * group.size for group in groups]
        self._queue: list[Batch] = []
        self._arrived: list[int] = []  # places that wait to fill a batch
        self._oldest = 0.0  # when the first of them arrived
        self._next_home = 0
        self._advanced_at = -math.inf

    def add(self, places: Sequence[int], last: bool) -> None:
        """These groups can be scored now; after ``last`` no more will come."""
        if places and not self._arrived:
            self._oldest = time.monotonic()
        self._arrived += places
        while len(self._arrived) >= self._groups_per_batch or (last and self._arrived):
            self._cut()

    def advance(self, now: float) -> None:
        """No longer wait for others to fill the batch of groups that have waited long enough."""
        self._advanced_at = now
        if self._arrived and now >= self._oldest + self._config.batch_delay_s:
            self._cut()

    def take(self, worker: int, is_starting: Callable[[int], bool], now: float) -> Batch | None:
        """Its own batches first come, first served; those of a worker that starts are anyone's."""
        for batch in self._queue:
            if batch.not_before <= now and (batch.home == worker or is_starting(batch.home)):
                self._queue.remove(batch)
                return batch
        return None

    def record(self, batch: Batch, results: Sequence[Sequence[RewardResult]]) -> bool:
        """Keep a batch's results; whether some have failed transiently and are tried again."""
        again = []
        for (place, indices), of_group in zip(batch.members, results, strict=True):
            transient = []
            for index, result in zip(indices, of_group, strict=True):
                failed = isinstance(result, RewardFailure) and result.transient
                if failed and self._may_retry(batch):
                    transient.append(index)
                else:
                    self._results[place][index] = result
            if transient:
                again.append((place, tuple(transient)))
        if again:
            self._retry(replace(batch, members=tuple(again)))
        return bool(again)

    def lose(self, batch: Batch, reason: str) -> bool:
        """No answer will come: whether the batch is tried again, or else fails for ``reason``."""
        if self._may_retry(batch):
            self._retry(batch)
            return True
        failure = RewardFailure(reason, transient=True)
        for place, indices in batch.members:
            for index in indices:
                self._results[place][index] = failure
        return False

    @property
    def done(self) -> bool:
        """Whether every member of every group has its result."""
        return all(None not in results for results in self._results)

    @property
    def results(self) -> list[tuple[RewardResult, ...]]:
        """One result per trajectory of each group, once all are ``done``."""
        return [
            tuple(result for result in results if result is not None) for results in self._results
        ]

    @property
    def wake_at(self) -> float:
        """When there will be something to do even if no answer comes."""
        # What was due when work was last handed out waits for a worker, not for the clock.
        times = [batch.not_before for batch in self._queue if batch.not_before > self._advanced_at]
        if self._arrived:
            times.append(self._oldest + self._config.batch_delay_s)
        return min(times, default=math.inf)

    def _cut(self) -> None:
        """Make a batch of the groups that have waited longest."""
        places = self._arrived[: self._groups_per_batch]
        self._arrived = self._arrived[self._groups_per_batch :]
        self._oldest = time.monotonic()
        members = tuple((place, tuple(range(self.groups[place].size))) for place in places)
        self._queue.append(Batch(self, members, self._next_home))
        self._next_home = (self._next_home + 1) % self._workers

    def _may_retry(self, batch: Batch) -> bool:
        return batch.attempt <= self._config.retries

    def _retry(self, batch: Batch) -> None:
        """Queue the batch for the next worker, after a delay that no two batches share."""
        delay = self._config.retry_delay_s * 2 ** (batch.attempt - 1) * _jitter.uniform(0.5, 1.5)
        self._queue.append(
            replace(
                batch,
                home=(batch.home + 1) % self._workers,
                attempt=batch.attempt + 1,
                not_before=time.monotonic() + min(delay, _LONGEST_DELAY_S),
            )
        )
