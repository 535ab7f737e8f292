"""One round of scoring with one reward: cuts groups into batches and collects their results.

Determinism. Batches are cut by the settings, and assigned to workers by position alone: a batch
waits until all of its groups are sampled, or dropped for good. A retried batch is never merged with
another. So without faults every run scores the same images together, whichever groups come first,
and on the same worker as long as the number of workers stays the same.

A batch knows its round. A worker may still answer for a round that was given up. That answer
changes only the old round, which nobody reads any more.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.workers.rollout_events import GroupRef
from policy.types import RewardFailure, RewardResult
from rewards.config import RewardConfig

_LONGEST_DELAY_S = 60.0
_jitter = random.Random()  # decides when a batch is retried, never what it scores


@dataclass(frozen=True)
class Batch:
    """What one worker scores in one call: some trajectories of some groups."""

    round: Round
    members: tuple[tuple[int, tuple[int, ...]], ...]  # a group's place and indices in the group
    refs: tuple[GroupRef, ...]  # the groups of the members
    home: int  # the worker that should score it, modulo the number of workers
    attempt: int = 1
    not_before: float = 0.0


class Round:
    """Groups that a number of workers score together."""

    def __init__(
        self,
        sizes: Sequence[int],
        config: RewardConfig,
        remember: bool,
        counted: bool = True,
    ) -> None:
        """``sizes`` are the groups' trajectories; ``remember`` uses the score cache. The work for a
        round that is not ``counted`` is in no step's metrics."""
        share = math.ceil(len(sizes) / config.most_workers)
        per_batch = max(1, min(config.batch_size // max(sizes), share))
        self.remember, self.counted = remember, counted
        self._sizes = sizes
        self._config = config
        self._batches = [
            range(start, min(start + per_batch, len(sizes)))
            for start in range(0, len(sizes), per_batch)
        ]
        self._refs: list[GroupRef | None] = [None] * len(sizes)
        self._results: list[list[RewardResult | None]] = [[None] * size for size in sizes]
        self._dropped: set[int] = set()  # places whose groups will never come
        self._queue: list[Batch] = []
        self._advanced_at = -math.inf

    def add(self, place: int, group: GroupRef) -> None:
        """This group can be scored now. Its batch is queued when the last of its groups comes."""
        self._refs[place] = group
        self._queue_batch_of(place)

    def drop(self, place: int) -> None:
        """This group will never come. The others of its batch are scored without it."""
        self._dropped.add(place)
        self._queue_batch_of(place)

    def _queue_batch_of(self, place: int) -> None:
        """Queue the batch of a place if all of its groups are there, and not all are scored."""
        number = place // len(self._batches[0])
        places = [other for other in self._batches[number] if other not in self._dropped]
        there = tuple(ref for other in places if (ref := self._refs[other]) is not None)
        if len(there) == len(places) and any(self.result(other) is None for other in places):
            members = tuple((other, tuple(range(self._sizes[other]))) for other in places)
            self._queue.append(Batch(self, members, there, number))

    def forget(self, places: Sequence[int]) -> None:
        """These groups are gone; each is scored anew when it was sampled again."""
        for place in places:
            self._refs[place] = None
            self._results[place] = [None] * self._sizes[place]
        self._queue = [
            batch for batch in self._queue if not {p for p, _ in batch.members} & set(places)
        ]

    def holds(self, place: int, group: GroupRef) -> bool:
        """Whether this group is still the one at ``place``, and no other was sampled instead."""
        return self._refs[place] is group

    def advance(self, now: float) -> None:
        """Note that batches which are due by now were offered to the workers."""
        self._advanced_at = now

    def take(self, worker: int, starting: Sequence[bool], now: float) -> Batch | None:
        """The next batch for a worker: the oldest of its own or of a worker that is starting.

        ``starting`` says of each worker whether it is.
        """
        for batch in self._queue:
            home = batch.home % len(starting)
            if batch.not_before <= now and (home == worker or starting[home]):
                self._queue.remove(batch)
                return batch
        return None

    def record(self, batch: Batch, results: Sequence[Sequence[RewardResult]]) -> bool:
        """Keep a batch's results; returns whether some failed transiently and are tried again."""
        again = []
        refs = []
        for (place, indices), ref, of_group in zip(batch.members, batch.refs, results, strict=True):
            if not self.holds(place, ref):
                continue  # the group was lost meanwhile
            transient = []
            for index, result in zip(indices, of_group, strict=True):
                failed = isinstance(result, RewardFailure) and result.transient
                if failed and self._may_retry(batch):
                    transient.append(index)
                else:
                    self._results[place][index] = result
            if transient:
                again.append((place, tuple(transient)))
                refs.append(ref)
        if again:
            self._retry(replace(batch, members=tuple(again), refs=tuple(refs)))
        return bool(again)

    def lose(self, batch: Batch, reason: str) -> bool:
        """No answer will come; returns whether the batch is tried again. If not, it has failed."""
        if self._may_retry(batch):
            self._retry(batch)
            return True
        failure = RewardFailure(reason, transient=True)
        for (place, indices), ref in zip(batch.members, batch.refs, strict=True):
            for index in indices:
                if self.holds(place, ref):
                    self._results[place][index] = failure
        return False

    def result(self, place: int) -> tuple[RewardResult, ...] | None:
        """One result per trajectory of a group; None as long as one is missing."""
        results = self._results[place]
        there = tuple(result for result in results if result is not None)
        return there if len(there) == len(results) else None

    def queued(self, now: float) -> int:
        """The number of batches that a worker could score now."""
        return sum(batch.not_before <= now for batch in self._queue)

    @property
    def wake_at(self) -> float:
        """The monotonic time at which there is something to do even if no answer comes."""
        # A batch that was due when work was last handed out waits for a worker, not for the clock.
        times = [batch.not_before for batch in self._queue if batch.not_before > self._advanced_at]
        return min(times, default=math.inf)

    def _may_retry(self, batch: Batch) -> bool:
        return batch.attempt <= self._config.retries

    def _retry(self, batch: Batch) -> None:
        """Queue the batch for the next worker, after a random delay of its own."""
        delay = self._config.retry_delay_s * 2 ** (batch.attempt - 1) * _jitter.uniform(0.5, 1.5)
        self._queue.append(
            replace(
                batch,
                home=batch.home + 1,
                attempt=batch.attempt + 1,
                not_before=time.monotonic() + min(delay, _LONGEST_DELAY_S),
            )
        )
