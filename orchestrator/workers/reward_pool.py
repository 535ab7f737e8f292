"""The workers of one reward: hands out batches to score, and replaces workers that fail.

Failure policy. A call has a deadline (``timeout_s``). A worker that dies, misses it or is stopped
(``stopped_workers``) is killed and replaced, and its batch goes to another worker. Trajectories
that a reward failed transiently go to another worker too. After ``retries`` further attempts they
fail, with the last reason. When there were more than ``restarts`` losses in a row and nobody in the
pool scored anything in between, the run stops (``WorkerFailed``). Workers that ran side by side
when one was lost count as the same loss. A worker that cannot come back, because nobody has room
for it, does not end a run that the others can go on with. The answer of a killed worker is never
read, so nothing is counted twice. Late answers of a round that was given up reach no other round.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray
from ray.exceptions import GetTimeoutError

from orchestrator.settings.resources import reward_resources
from orchestrator.workers.failures import (
    ObjectLost,
    WorkerDied,
    WorkerFailed,
    WorkerLate,
    WorkerStopped,
)
from orchestrator.workers.placement import ANYWHERE, Places
from orchestrator.workers.reward_round import Batch, Round
from orchestrator.workers.scalable_pool import ScalablePool, Slot
from orchestrator.workers.waiting import is_here, take_result
from rewards.config import CacheConfig, RewardConfig
from rewards.scoring import ScoringWork
from rewards.worker import Reply, start_reward_worker

log = logging.getLogger("eg_grpo")


@dataclass
class Usage(ScoringWork):
    """The work of a pool's workers, how often batches were retried and workers replaced."""

    retries: int = 0
    restarts: int = 0


@dataclass(eq=False)
class Duty(Slot):
    """What one worker is doing: nothing, starting (``call`` alone), or scoring a batch."""

    call: ray.ObjectRef | None = None
    batch: Batch | None = None
    deadline: float = math.inf
    started_at: float = field(default_factory=time.monotonic)  # when its process was

    @property
    def starting(self) -> bool:
        return self.call is not None and self.batch is None

    @property
    def up(self) -> bool:
        return not self.starting


class RewardPool(ScalablePool[Duty]):
    """Workers of one reward; ``orchestrator.workers.reward_pools`` tells it what has happened."""

    def __init__(
        self,
        config: RewardConfig,
        cache: CacheConfig,
        start_timeout_s: float,
        deterministic: bool = False,
        places: Places = ANYWHERE,
    ) -> None:
        self.config = config
        self.usage = Usage()
        self._failures: list[str] = []
        super().__init__(
            [f"reward worker {config.name}/{index}" for index in range(config.workers)],
            lambda name: start_reward_worker(config, cache, deterministic, places.of(name)),
            lambda workers: [worker.ready.remote() for worker in workers],
            reward_resources(config),
            start_timeout_s,
            config.restarts,
        )
        self._slots = [Duty() for _ in self.workers]
        self._places, self._numbered = places, len(self._slots)
        self._failed_starts: list[str] = []
        self._lost_in_a_row, self._counted_at = 0, -math.inf  # when the last loss was counted
        self._rounds: list[Round] = []
        # Groups that were found to be gone, which the caller takes from here.
        self.lost: list[tuple[Round, int]] = []

    def _replaced_while_loading(self, index: int, failure: WorkerFailed) -> None:
        self.usage.restarts += 1
        self._failures.append(str(failure))

    def begin(self, sizes: Sequence[int], remember: bool = False, counted: bool = True) -> Round:
        """Begin a round of groups with so many trajectories each. A group is scored when it was
        added to the round. Older rounds are served first.

        ``remember`` has the workers read and fill the score cache. ``usage`` has the work for the
        round if it is ``counted``; workers that were replaced are always counted.
        """
        self._rounds.append(Round(sizes, self.config, remember, counted))
        return self._rounds[-1]

    def end(self, round: Round) -> None:
        """Forget a round, done or not. Workers that score for it stay busy until they answer."""
        self._rounds.remove(round)

    def advance(self) -> None:
        """Replace workers that are late, and hand out batches to idle ones. Never blocks."""
        self._look_after_starts()
        now, stopped = time.monotonic(), self.stopped_workers()
        for round in self._rounds:
            round.advance(now)
        for name, duty in list(zip(self.names, self._slots, strict=True)):
            if name in stopped and not is_here(duty.call):
                failure = WorkerStopped({name: stopped[name]})
                self._replace(duty, failure, "its worker is stopped")
            # This process may itself have waited past the deadline, such as for Redis.
            elif now >= duty.deadline and not is_here(duty.call):
                self._give_up(duty)
        staying = [duty for duty in self._slots if duty.stays]
        for place, duty in enumerate(staying):
            if duty.call is None and (batch := self._next_for(place, staying, now)) is not None:
                self._send(duty, batch, now)

    @property
    def queued(self) -> int:
        """The number of batches that wait for a worker."""
        now = time.monotonic()
        return sum(round.queued(now) for round in self._rounds)

    def _join(self, number: int) -> Duty:
        call = self._add(f"reward worker {self.config.name}/{number}").ready.remote()
        return Duty(call, deadline=time.monotonic() + self._start_timeout_s, joining=True)

    def _leave(self, slot: Duty) -> None:
        if slot.batch is None:
            self._end(slot)

    @property
    def states(self) -> dict[str, str]:
        """Starting, scoring or idle, by the name of the worker."""
        return {
            name: "starting" if duty.starting else "scoring" if duty.call is not None else "idle"
            for name, duty in zip(self.names, self._slots, strict=True)
        }

    def take_failures(self) -> list[str]:
        """Why workers were replaced since the last call."""
        failures, self._failures = self._failures, []
        return failures

    @property
    def calls(self) -> list[ray.ObjectRef]:
        """Calls whose answers the pool waits for."""
        return [duty.call for duty in self._slots if duty.call is not None]

    @property
    def wake_at(self) -> float:
        """The monotonic time at which ``advance`` has something to do even if no answer comes."""
        rounds = [round.wake_at for round in self._rounds]
        deadlines = [duty.deadline for duty in self._slots]
        return min([*rounds, *deadlines, *self._look_at.values()])

    def receive(self, call: ray.ObjectRef) -> None:
        """Take one of ``calls`` whose answer lies on this machine. Never blocks."""
        duty = next(duty for duty in self._slots if duty.call == call)
        try:
            reply = take_result(call, self._name(duty))
        except GetTimeoutError:
            return  # the answer has left this machine's memory; it still has until the deadline
        except ObjectLost as lost:
            self._lose_answer(duty, lost)
        except WorkerDied as failure:
            # A worker that was up has died otherwise, even if its place was asked for anew since.
            stands_back = duty.starting and self._start_where_it_stands_back(
                self._slots.index(duty)
            )
            if not stands_back:
                self._replace(duty, failure, "its worker died")
        except WorkerFailed as failure:
            self._replace(duty, failure, "its worker failed")
        else:
            batch = duty.batch
            duty.joining = False
            self._free(duty)
            if batch is not None:
                self._lost_in_a_row, self._counted_at = 0, -math.inf
                self._record(batch, reply)

    def _next_for(self, place: int, staying: Sequence[Duty], now: float) -> Batch | None:
        starting = [duty.starting for duty in staying]
        for round in self._rounds:
            if batch := round.take(place, starting, now):
                return batch
        return None

    def _free(self, duty: Duty) -> None:
        """The worker has nothing to do, and ends if it is to leave."""
        duty.call, duty.batch, duty.deadline = None, None, math.inf
        if duty.leaving:
            self._end(duty)

    def _name(self, duty: Duty) -> str:
        return self.names[self._slots.index(duty)]

    def _send(self, duty: Duty, batch: Batch, now: float) -> None:
        refs = [group.ref for group in batch.refs]
        selection = [members for _, members in batch.members]
        worker = self.workers[self._slots.index(duty)]
        duty.batch = batch
        duty.call = worker.score.remote(selection, *refs, remember=batch.round.remember)
        duty.deadline = now + self.config.timeout_s

    def _lose_answer(self, duty: Duty, lost: ObjectLost) -> None:
        """An object is gone. If it is a group, the worker is well, and the group is reported."""
        batch = duty.batch
        of_batch = batch.members if batch is not None else ()
        refs = batch.refs if batch is not None else ()
        gone = [
            (place, group)
            for (place, _), group in zip(of_batch, refs, strict=True)
            if group.ref.hex() == lost.object_hex
        ]
        if batch is None or not gone:
            self._replace(duty, lost, "its answer was lost")
            return
        self._free(duty)
        round = batch.round
        self.lost += [(round, place) for place, group in gone if round.holds(place, group)]
        # The other groups of the batch wait in it for the lost ones.

    def _record(self, batch: Batch, reply: Reply) -> None:
        if batch.round not in self._rounds:
            log.warning("reward %s: an answer of a round given up is dropped", self.config.name)
            return
        retried = batch.round.record(batch, reply.results)
        if batch.round.counted:
            self.usage.add(reply.work)
            self.usage.retries += retried

    def _give_up(self, duty: Duty) -> None:
        timeout_s = self._start_timeout_s if duty.starting else self.config.timeout_s
        late = self._explained(WorkerLate([self._name(duty)], timeout_s))
        self._replace(duty, late, f"no answer within {timeout_s:g} s")

    def _replace(self, duty: Duty, failure: WorkerFailed, reason: str) -> None:
        """Start a new worker in place of one. Its batch is retried or fails for ``reason``."""
        index = self._slots.index(duty)
        ray.kill(self.workers[index])
        batch, duty.batch = duty.batch, None
        if batch is not None and batch.round in self._rounds:
            retried = batch.round.lose(batch, reason)
            self.usage.retries += retried and batch.round.counted
        if self._ends_with_loss(duty, failure):
            self._failures.append(str(failure))
            return
        if duty.started_at >= self._counted_at:
            self._lost_in_a_row, self._counted_at = self._lost_in_a_row + 1, time.monotonic()
        if self._lost_in_a_row > self.config.restarts:
            raise WorkerFailed(
                f"{failure}; it was the last of {self._lost_in_a_row} losses of workers of reward"
                f" {self.config.name} in a row with nothing scored in between"
            ) from failure
        log.warning("%s; it is replaced", failure)
        self.usage.restarts += 1
        self._failures.append(str(failure))
        self._load_again(index)

    def _load_again(self, index: int) -> None:
        duty = self._slots[index]
        duty.started_at = time.monotonic()
        duty.call = self._start_again(index).ready.remote()
        duty.deadline = time.monotonic() + self._start_timeout_s
