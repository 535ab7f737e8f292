"""The workers of one reward: who scores what, and what happens when one of them does not.

Failure policy. A call has a deadline (``timeout_s``). A worker that dies or misses it is killed
and replaced, and its batch goes to another worker; so do the trajectories that a reward failed
transiently. After ``retries`` further attempts they fail, with the last reason. A worker that
must be replaced more than ``restarts`` times without scoring anything stops the run
(``WorkerFailed``), and so does one that Ray has no room for at the start. What a killed worker may
still have answered is never read, so nothing is counted twice. A round that an exception broke off
ends with the next ``begin``: what is still answered of it reaches no other round.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from orchestrator.workers.reward_round import Batch, Round
from orchestrator.workers.rollout_pool import GroupRef
from orchestrator.workers.starting import Share, Starting
from orchestrator.workers.waiting import WorkerFailed, one_line
from policy.errors import UserError
from policy.types import RewardResult
from rewards.config import CacheConfig, RewardConfig
from rewards.scoring import ScoringWork
from rewards.worker import Reply, start_reward_worker

log = logging.getLogger("eg_grpo")


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


class RewardPool:
    """Workers of one reward; ``orchestrator.workers.reward_pools`` tells it what has happened."""

    def __init__(
        self,
        config: RewardConfig,
        cache: CacheConfig,
        start_timeout_s: float,
        deterministic: bool = False,
    ) -> None:
        self.config = config
        self.usage = Usage()
        self._new_worker = partial(start_reward_worker, config, cache, deterministic)
        self._start_timeout_s = start_timeout_s
        self.workers = [
            Worker(f"reward worker {config.name}/{index}", self._new_worker())
            for index in range(config.workers)
        ]
        # Asked now and not when waited for: all pools load their models at the same time.
        self.starting = Starting(
            [worker.actor for worker in self.workers],
            lambda actor: actor.ready.remote(),
            [worker.name for worker in self.workers],
            Share(
                config.cpus_per_worker,
                config.gpus_per_worker,
                installs=bool(config.runtime_env.pip),
            ),
        )
        self._round = self._new_round(())

    def begin(self, groups: Sequence[GroupRef], remember: bool = False) -> None:
        """Expect these groups; each is scored after it was ``add``-ed.

        ``remember`` has the workers read and fill the score cache.

        A round that was not finished is given up. Workers are busy with it until they answer or
        are late.
        """
        self._round = self._new_round(groups, remember)

    def add(self, places: Sequence[int], last: bool) -> None:
        """These groups are in the object store; after ``last`` no more will come."""
        self._round.add(places, last)

    def advance(self) -> None:
        """Give up on what is late, and hand out work to who has none. Never blocks."""
        now = time.monotonic()
        self._round.advance(now)
        for worker in self.workers:
            if now >= worker.deadline:
                self._give_up(worker)
        for index, worker in enumerate(self.workers):
            if worker.call is None and (batch := self._next_for(index, now)) is not None:
                self._send(worker, batch, now)

    @property
    def done(self) -> bool:
        """Whether every member of every group has its result."""
        return self._round.done

    def finish(self) -> list[tuple[RewardResult, ...]]:
        """One result per trajectory of each group, once the pool is ``done``.

        The pool lets go of the groups: the object store holds those of one round.
        """
        results = self._round.results
        self._round = self._new_round(())
        return results

    @property
    def calls(self) -> list[ray.ObjectRef]:
        """Answers that the pool waits for."""
        return [worker.call for worker in self.workers if worker.call is not None]

    @property
    def wake_at(self) -> float:
        """When ``advance`` has something to do even if no answer comes."""
        return min(self._round.wake_at, *(worker.deadline for worker in self.workers))

    def receive(self, call: ray.ObjectRef) -> None:
        """Take one of ``calls`` whose answer lies on this machine. Never blocks."""
        worker = next(worker for worker in self.workers if worker.call == call)
        batch = worker.batch
        try:
            reply = ray.get(call, timeout=0)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            self._replace(worker, f"failed: {error.cause!r}", "its worker failed")
        except ray.exceptions.GetTimeoutError:
            return  # it has left the memory meanwhile, and is waited for until the deadline
        except ray.exceptions.RayError as error:
            self._replace(worker, f"died: {one_line(error)}", "its worker died")
        else:
            worker.call, worker.batch, worker.deadline = None, None, math.inf
            if batch is not None:
                worker.restarts = 0
                self._record(batch, reply)

    def close(self) -> None:
        """End the workers' processes; again, it does nothing."""
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers = []

    def _new_round(self, groups: Sequence[GroupRef], remember: bool = False) -> Round:
        return Round(groups, self.config, self.config.workers, remember)

    def _next_for(self, index: int, now: float) -> Batch | None:
        return self._round.take(index, lambda home: self.workers[home].starting, now)

    def _send(self, worker: Worker, batch: Batch, now: float) -> None:
        refs = [batch.round.groups[place].ref for place, _ in batch.members]
        worker.batch = batch
        selection = [members for _, members in batch.members]
        worker.call = worker.actor.score.remote(selection, *refs, remember=batch.round.remember)
        worker.deadline = now + self.config.timeout_s

    def _record(self, batch: Batch, reply: Reply) -> None:
        if batch.round is not self._round:
            log.warning("reward %s: an answer of a round given up is dropped", self.config.name)
            return
        self.usage.add(reply.work)
        self.usage.retries += batch.round.record(batch, reply.results)

    def _give_up(self, worker: Worker) -> None:
        seconds = self._start_timeout_s if worker.starting else self.config.timeout_s
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
        worker.actor = self._new_worker()
        worker.call = worker.actor.ready.remote()
        worker.deadline = time.monotonic() + self._start_timeout_s
        if batch is not None and batch.round is self._round:
            self.usage.retries += batch.round.lose(batch, reason)
