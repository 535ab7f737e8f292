"""One round of scoring with one reward: cuts groups into batches and collects their results.

Determinism. Batches are cut and assigned to workers by position alone, and a retried batch is never
merged with another. So without faults every run scores the same images together on the same worker.

A batch knows its round. A worker may still answer for a round that was given up. That answer
changes only the old round, which nobody reads any more.
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
    """What one worker scores in one call: some trajectories of some groups."""

    round: Round
    members: tuple[tuple[int, tuple[int, ...]], ...]  # a group's place and indices in the group
    home: int  # the worker that should score it
    attempt: int = 1
    not_before: float = 0.0


class Round:
    """Groups that a number of workers score together."""

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
        self._arrived: list[int] = []  # places of groups that wait to fill a batch
        self._oldest = 0.0  # when the first of them arrived
        self._next_home = 0
        self._advanced_at = -math.inf

    def add(self, places: Sequence[int], last: bool) -> None:
        """These groups can be scored now. After ``last`` no more groups will come."""
        if places and not self._arrived:
            self._oldest = time.monotonic()
        self._arrived += places
        while len(self._arrived) >= self._groups_per_batch or (last and self._arrived):
            self._cut()

    def advance(self, now: float) -> None:
        """Cut a batch, though it is not full, of groups that have waited ``batch_delay_s``."""
        self._advanced_at = now
        if self._arrived and now >= self._oldest + self._config.batch_delay_s:
            self._cut()

    def take(self, worker: int, is_starting: Callable[[int], bool], now: float) -> Batch | None:
        """The next batch for a worker: the oldest of its own or of a worker that is starting."""
        for batch in self._queue:
            if batch.not_before <= now and (batch.home == worker or is_starting(batch.home)):
                self._queue.remove(batch)
                return batch
        return None

    def record(self, batch: Batch, results: Sequence[Sequence[RewardResult]]) -> bool:
        """Keep a batch's results; returns whether some failed transiently and are tried again."""
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
        """No answer will come; returns whether the batch is tried again. If not, it has failed."""
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
        """The monotonic time at which there is something to do even if no answer comes."""
        # A batch that was due when work was last handed out waits for a worker, not for the clock.
        times = [batch.not_before for batch in self._queue if batch.not_before > self._advanced_at]
        if self._arrived:
            times.append(self._oldest + self._config.batch_delay_s)
        return min(times, default=math.inf)

    def _cut(self) -> None:
        """Queue a batch of the groups that have waited longest."""
        places = self._arrived[: self._groups_per_batch]
        self._arrived = self._arrived[self._groups_per_batch :]
        self._oldest = time.monotonic()
        members = tuple((place, tuple(range(self.groups[place].size))) for place in places)
        self._queue.append(Batch(self, members, self._next_home))
        self._next_home = (self._next_home + 1) % self._workers

    def _may_retry(self, batch: Batch) -> bool:
        return batch.attempt <= self._config.retries

    def _retry(self, batch: Batch) -> None:
        """Queue the batch for the next worker, after a random delay of its own."""
        delay = self._config.retry_delay_s * 2 ** (batch.attempt - 1) * _jitter.uniform(0.5, 1.5)
        self._queue.append(
            replace(
                batch,
                home=(batch.home + 1) % self._workers,
                attempt=batch.attempt + 1,
                not_before=time.monotonic() + min(delay, _LONGEST_DELAY_S),
            )
        )
