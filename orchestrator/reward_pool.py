"""The workers of one reward: who scores what, and what happens when one of them does not.

Failure policy. A call has a deadline (``timeout_s``). A worker that dies or misses it is killed
and replaced, and its batch goes to another worker; so do the trajectories that a reward failed
transiently. After ``retries`` further attempts they fail, with the last reason. A worker that
must be replaced more than ``restarts`` times without scoring anything stops the run
(``WorkerFailed``), and so does one that Ray has no room for at the start. What a killed worker may
still have answered is never read, so nothing is counted twice.

Determinism. Batches are cut and dealt out by position alone, and a retried batch is never merged
with another: without faults, every run scores the same images together on the same worker.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from orchestrator.pools import GroupRef
from orchestrator.starting import Share, Starting
from orchestrator.waiting import WorkerFailed, one_line
from policy.errors import UserError
from policy.types import RewardFailure, RewardResult
from rewards.config import CacheConfig, RewardConfig
from rewards.scoring import ScoringWork
from rewards.worker import Reply, start_reward_worker

log = logging.getLogger("eg_grpo")

_LONGEST_DELAY_S = 60.0
_jitter = random.Random()  # decides when a batch is retried, never what it scores


@dataclass(frozen=True)
class Batch:
    """What one worker scores in one call: members of some groups, by the groups' places."""

    members: tuple[tuple[int, tuple[int, ...]], ...]
    home: int  # the worker that should score it
    attempt: int = 1
    not_before: float = 0.0


@dataclass
class Usage(ScoringWork):
    """The work of a pool's workers, and how often it was repeated or they were replaced."""

    retries: int = 0
    restarts: int = 0


@dataclass
class Worker:
    """One actor and what it is doing: nothing, starting (``call`` alone), or scoring a batch."""

    name: str
    actor: Any
    call: ray.ObjectRef | None = None
    batch: Batch | None = None
    deadline: float = math.inf
    restarts: int = 0  # since it last scored anything

    @property
    def starting(self) -> bool:
        return self.call is not None and self.batch is None


@dataclass
class Task:
    """The groups that are being scored."""

    groups: Sequence[GroupRef]
    groups_per_batch: int
    results: list[list[RewardResult | None]]
    next_home: int = 0
    arrived: list[int] = field(default_factory=list)  # places that wait to fill a batch
    oldest: float = 0.0  # when the first of them arrived


class RewardPool:
    """Workers of one reward; ``orchestrator.scoring`` tells it what has happened."""

    def __init__(self, config: RewardConfig, cache: CacheConfig, start_timeout_s: float) -> None:
        self.config = config
        self.usage = Usage()
        self._cache = cache
        self._start_timeout_s = start_timeout_s
        self.workers = [
            Worker(f"reward worker {config.name}/{index}", start_reward_worker(config, cache))
            for index in range(config.workers)
        ]
        # Asked now and not when waited for: all pools load their models at the same time.
        self._starting = Starting(
            [worker.actor for worker in self.workers],
            lambda actor: actor.ready.remote(),
            [worker.name for worker in self.workers],
            Share(
                config.cpus_per_worker,
                config.gpus_per_worker,
                installs=bool(config.runtime_env.pip),
            ),
        )
        self._queue: list[Batch] = []
        self._task = Task((), 1, [])
        self._advanced_at = -math.inf

    def wait_ready(self) -> None:
        """Block until every worker has built its reward.

        Raises ``WorkerFailed``; for a worker whose process does not run, with what it asks for.
        """
        self._starting.wait(self._start_timeout_s)

    def begin(self, groups: Sequence[GroupRef]) -> None:
        """Expect these groups; each is scored after it was ``add``-ed."""
        largest = max((group.size for group in groups), default=1)
        share = math.ceil(len(groups) / len(self.workers))
        per_batch = max(1, min(self.config.batch_size // largest, share))
        self._task = Task(groups, per_batch, [[None] * group.size for group in groups])

    def add(self, places: Sequence[int], last: bool) -> None:
        """These groups are in the object store; after ``last`` no more will come."""
        task = self._task
        if places and not task.arrived:
            task.oldest = time.monotonic()
        task.arrived += places
        while len(task.arrived) >= task.groups_per_batch or (last and task.arrived):
            self._cut()

    def advance(self) -> None:
        """Give up on what is late, and hand out work to who has none. Never blocks."""
        now, task = time.monotonic(), self._task
        self._advanced_at = now
        if task.arrived and now >= task.oldest + self.config.batch_delay_s:
            self._cut()
        for worker in self.workers:
            if now >= worker.deadline:
                self._give_up(worker)
        for index, worker in enumerate(self.workers):
            if worker.call is None and (batch := self._next_for(index, now)) is not None:
                self._send(worker, batch, now)

    @property
    def done(self) -> bool:
        """Whether every member of every group has its result."""
        return all(None not in results for results in self._task.results)

    def results(self, place: int) -> tuple[RewardResult, ...]:
        """One result per trajectory of a group, once the pool is ``done``."""
        return tuple(result for result in self._task.results[place] if result is not None)

    @property
    def calls(self) -> list[ray.ObjectRef]:
        """Answers that the pool waits for."""
        return [worker.call for worker in self.workers if worker.call is not None]

    @property
    def wake_at(self) -> float:
        """When ``advance`` has something to do even if no answer comes."""
        times = [worker.deadline for worker in self.workers]
        # What was due when work was last handed out waits for a worker, not for the clock.
        times += [batch.not_before for batch in self._queue if batch.not_before > self._advanced_at]
        if self._task.arrived:
            times.append(self._task.oldest + self.config.batch_delay_s)
        return min(times)

    def receive(self, call: ray.ObjectRef) -> None:
        """Take one of ``calls`` that is done."""
        worker = next(worker for worker in self.workers if worker.call == call)
        batch = worker.batch
        try:
            reply = ray.get(call, timeout=self._patience_s(worker))
        except ray.exceptions.GetTimeoutError:  # done, but on a node from which nothing comes
            self._give_up(worker)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            self._replace(worker, f"failed: {error.cause!r}", "its worker failed")
        except ray.exceptions.RayError as error:
            self._replace(worker, f"died: {one_line(error)}", "its worker died")
        else:
            worker.call, worker.batch, worker.deadline = None, None, math.inf
            if batch is not None:
                worker.restarts = 0
                self._record(batch, reply)

    def _cut(self) -> None:
        """Make a batch of the groups that have waited longest."""
        task = self._task
        places = task.arrived[: task.groups_per_batch]
        task.arrived = task.arrived[task.groups_per_batch :]
        task.oldest = time.monotonic()
        members = tuple((place, tuple(range(task.groups[place].size))) for place in places)
        self._queue.append(Batch(members, task.next_home))
        task.next_home = (task.next_home + 1) % len(self.workers)

    def _next_for(self, index: int, now: float) -> Batch | None:
        """Its own batches first come, first served; those of a worker that starts are anyone's."""
        for batch in self._queue:
            if batch.not_before <= now and (
                batch.home == index or self.workers[batch.home].starting
            ):
                self._queue.remove(batch)
                return batch
        return None

    def _send(self, worker: Worker, batch: Batch, now: float) -> None:
        refs = [self._task.groups[place].ref for place, _ in batch.members]
        worker.batch = batch
        worker.call = worker.actor.score.remote([members for _, members in batch.members], *refs)
        worker.deadline = now + self.config.timeout_s

    def _record(self, batch: Batch, reply: Reply) -> None:
        self.usage.add(reply.work)
        again = []
        for (place, indices), results in zip(batch.members, reply.results, strict=True):
            transient = []
            for index, result in zip(indices, results, strict=True):
                failed = isinstance(result, RewardFailure) and result.transient
                if failed and batch.attempt <= self.config.retries:
                    transient.append(index)
                else:
                    self._task.results[place][index] = result
            if transient:
                again.append((place, tuple(transient)))
        if again:
            self._retry(replace(batch, members=tuple(again)))

    def _patience_s(self, worker: Worker) -> float:
        return self._start_timeout_s if worker.starting else self.config.timeout_s

    def _give_up(self, worker: Worker) -> None:
        seconds = self._patience_s(worker)
        self._replace(
            worker, f"did not answer within {seconds:g} s", f"no answer within {seconds:g} s"
        )

    def _replace(self, worker: Worker, what: str, reason: str) -> None:
        """Start another actor in a worker's place; its batch is retried or fails for ``reason``."""
        ray.kill(worker.actor)
        if worker.restarts == self.config.restarts:
            raise WorkerFailed(
                f"{worker.name} {what}; replaced {worker.restarts} times since it last scored"
            )
        log.warning("%s %s; it is replaced", worker.name, what)
        self.usage.restarts += 1
        worker.restarts += 1
        batch, worker.batch = worker.batch, None
        worker.actor = start_reward_worker(self.config, self._cache)
        worker.call = worker.actor.ready.remote()
        worker.deadline = time.monotonic() + self._start_timeout_s
        if batch is None:
            return
        if batch.attempt <= self.config.retries:
            self._retry(batch)
            return
        failure = RewardFailure(reason, transient=True)
        for place, indices in batch.members:
            for index in indices:
                self._task.results[place][index] = failure

    def _retry(self, batch: Batch) -> None:
        """Queue the batch for the next worker, after a delay that no two batches share."""
        delay = self.config.retry_delay_s * 2 ** (batch.attempt - 1) * _jitter.uniform(0.5, 1.5)
        self.usage.retries += 1
        self._queue.append(
            replace(
                batch,
                home=(batch.home + 1) % len(self.workers),
                attempt=batch.attempt + 1,
                not_before=time.monotonic() + min(delay, _LONGEST_DELAY_S),
            )
        )
