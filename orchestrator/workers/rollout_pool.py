"""The pool of rollout workers: it passes orders on, reports what happened, and replaces the lost.

Failure policy. A call has a deadline. A worker that dies, raises, misses a deadline or is stopped
(``stopped_workers``) is killed and reported as lost, and a new process takes its place after a
pause that doubles with every loss in a row. Answers of a killed worker are never read. When there
were more than ``rollout.restarts`` losses in a row and no batch was sampled in between, the run
stops with the last cause (``WorkerFailed``). Workers that ran side by side when one was lost count
as the same loss: a host may take all of its workers with it. Bad input that a worker finds
(``UserError``) stops it at once. The machine that held the published weights may be gone. A worker
that was to load them is well: it is not replaced, and ``WeightsLost`` is reported. A worker that
loads weights which are still being published waits for the learner. So its deadline begins, and its
answer is read, when all of them are there. Of workers that join and leave, ``scalable_pool`` says
what happens when they are lost.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.settings.resources import rollout_resources
from orchestrator.settings.worker_settings import PolicyFiles, WorkerSettings
from orchestrator.workers.failures import ObjectLost, WorkerFailed, WorkerLate, WorkerStopped
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.placement import ANYWHERE, Places
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WeightsLost,
    WorkerLeaves,
    WorkerLost,
    WorkerUp,
)
from orchestrator.workers.scalable_pool import ScalablePool, Slot
from orchestrator.workers.waiting import is_here, take_result, wait_all
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group
from rollout.engine import GenerationRequest
from rollout.worker import start_rollout_worker

log = logging.getLogger("eg_grpo")

_LONGEST_PAUSE_S = 30.0


@dataclass(eq=False)
class _Place(Slot):
    """One place of the pool: the process that fills it at the moment, and what that is doing."""

    name: str
    worker: str
    processes: int = 1  # that have filled the place so far
    doing: str = ""  # starting, loading or sampling; nothing when the worker is idle
    call: ray.ObjectRef | None = None
    groups: list[GroupRef] = field(default_factory=list)  # that are being sampled
    weights: PublishedWeights | None = None  # that are being loaded
    deadline: float = math.inf
    start_at: float = math.inf  # when the next process is started
    # Of a process that is asked for again: when it must be up, and when it is looked after.
    start_by: float = math.inf
    look_at: float = math.inf
    started_at: float = field(default_factory=time.monotonic)  # when the present one was

    @property
    def lost(self) -> bool:
        """Whether its process has ended and the next one is not started yet."""
        return self.start_at < math.inf

    @property
    def up(self) -> bool:
        return self.doing != "starting" and not self.lost

    def end_call(self) -> None:
        """The worker is idle, or nobody listens to it any more."""
        self.doing, self.call, self.groups, self.weights = "", None, [], None
        self.deadline = math.inf


class RolloutPool(ScalablePool[_Place]):
    """Rollout workers, each of which follows one order at a time."""

    def __init__(
        self, config: WorkerSettings, inputs: PolicyFiles, places: Places = ANYWHERE
    ) -> None:
        self.config = config.rollout
        start = partial(
            start_rollout_worker,
            config.rollout,
            str(inputs.model_path),
            config.model.template,
            inputs.instruction,
            config.model.dtype,
            config.deterministic,
        )
        super().__init__(
            [f"rollout worker {index}" for index in range(self.config.workers)],
            lambda name: start(place=places.of(name)),
            lambda workers: [worker.identity.remote() for worker in workers],
            rollout_resources(config.rollout),
            config.cluster.start_timeout_s,
            config.rollout.restarts,
        )
        self._slots = [_Place(name, name) for name in self.names]
        self._places, self._numbered = places, len(self._slots)
        self._failed_starts: list[str] = []
        self._events: list[RolloutEvent] = []
        self._lost_in_a_row, self._counted_at = 0, -math.inf  # when the last loss was counted
        self._asleep = False
        self._complete: PublishedWeights | None = None  # the newest that are published
        self.restarts = 0

    def wait_ready(self) -> None:
        """Block until every worker has loaded its model, and log what each one runs."""
        for identity, place in zip(self._wait_loaded(), self._slots, strict=True):
            log.info("rollout engine: %s", identity)
            self._events.append(WorkerUp(place.worker))

    def _replaced_while_loading(self, index: int, failure: WorkerFailed) -> None:
        self.restarts += 1
        self._events.append(WorkerLost(self.names[index], str(failure)))

    # Orders

    def bring(self, weights: PublishedWeights) -> None:
        """All of the weights are there: listen to the workers that load them already.

        Send them to the hosts of workers that still sample, so that loading them is short.
        """
        self._complete = weights
        for place in self._slots:
            if place.weights is weights:
                place.deadline = time.monotonic() + self.config.load_timeout_s
        if weights.refs is None:
            return
        sampling = {place.name for place in self._slots if place.doing == "sampling"}
        hosts = {
            ray.get(running, timeout=0).node_id
            for name, running in zip(self.names, self.running, strict=True)
            if name in sampling and is_here(running)
        }
        bucket = weights.refs[:2][-1]  # the first one, after the slots
        found = ray.experimental.get_object_locations([bucket])
        have = found.get(bucket, {"node_ids": []})["node_ids"]
        if have:  # else it is so small that Ray sends it with the call
            for host in hosts.difference(have):
                _bring_to(host, weights.refs)

    def load(self, worker: str, weights: PublishedWeights) -> None:
        """Have a worker load weights when it has done what it does; then ``WeightsLoaded``."""
        if weights.refs is None:
            self._place(worker).joining = False
            receipt = WeightReceipt(weights.weight_version, "", np.zeros(0, dtype=np.float32))
            self._events.append(WeightsLoaded(worker, receipt))
            return
        place = self._place(worker)
        slots, *buckets = weights.refs
        call = self._process(place).load_weights.remote(weights.weight_version, slots, buckets)
        complete = weights is self._complete
        self._called(place, "loading", call, self.config.load_timeout_s if complete else math.inf)
        place.weights = weights

    def sample(
        self, worker: str, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> None:
        """Have a worker sample one group per request; then ``BatchSampled``."""
        place = self._place(worker)
        # Each group is an object of its own, so that it can travel alone. Their number is one more
        # object: it says that all are there.
        *refs, number = (
            self._process(place)
            .generate_groups.options(num_returns=len(requests) + 1)
            .remote(list(requests), sampling)
        )
        self._called(place, "sampling", number, self.config.timeout_s)
        place.groups = [
            GroupRef(request.prompt, ref, len(request.seeds))
            for request, ref in zip(requests, refs, strict=True)
        ]

    def end(self, worker: str) -> None:
        """End a worker that leaves and has nothing left to do."""
        self._end(self._place(worker))

    def _join(self, number: int) -> _Place:
        name = f"rollout worker {number}"
        place = _Place(name, name, joining=True)
        self._called(place, "starting", self._add(name).identity.remote(), self._start_timeout_s)
        return place

    def _leave(self, slot: _Place) -> None:
        if slot.up:
            self._events.append(WorkerLeaves(slot.worker))
        else:
            self._end(slot)

    # What happens

    @property
    def states(self) -> dict[str, str]:
        """Starting, loading, sampling, idle, or lost until the next process starts; by name."""
        return {
            place.worker: "lost" if place.lost else place.doing or "idle" for place in self._slots
        }

    @property
    def queued(self) -> int:
        """No batch ever waits here: the schedule keeps those that wait."""
        return 0

    @property
    def calls(self) -> list[ray.ObjectRef]:
        """Calls whose answers the pool waits for."""
        return [
            place.call
            for place in self._slots
            if place.call is not None and place.deadline < math.inf
        ]

    @property
    def wake_at(self) -> float:
        """The monotonic time at which ``advance`` has something to do even if no answer comes."""
        times = [place.deadline for place in self._slots]
        if not self._asleep:
            times += [place.start_at for place in self._slots]
        return min([*times, *self._look_at.values()])

    def advance(self) -> None:
        """Give up workers that are late, and start those that are due. Never blocks."""
        self._look_after_starts()
        now, stopped = time.monotonic(), self.stopped_workers()
        for place in list(self._slots):
            if place.name in stopped and not place.lost and not is_here(place.call):
                self._lose(place, WorkerStopped({place.name: stopped[place.name]}))
            # This process may itself have waited past the deadline, such as for Redis.
            elif now >= place.deadline and not is_here(place.call):
                late = WorkerLate([place.name], self._timeout_of(place.doing))
                self._lose(place, self._explained(late))
            # A new process would load onto the GPU that the learner fills while others sleep.
            if now >= place.start_at and not self._asleep:
                place.start_at, place.started_at = math.inf, now
                place.processes += 1
                place.worker = f"{place.name} (process {place.processes})"
                self._load_again(self._slots.index(place))
                place.deadline = min(place.deadline, place.start_by)
                self._look_at[place.name] = min(self._look_at[place.name], place.look_at)
                place.start_by = place.look_at = math.inf

    def _load_again(self, index: int) -> None:
        call = self._start_again(index).identity.remote()
        self._called(self._slots[index], "starting", call, self._start_timeout_s)

    def receive(self, call: ray.ObjectRef) -> None:
        """Take one of ``calls`` whose answer lies on this machine. Never blocks."""
        place = next(place for place in self._slots if place.call == call)
        try:
            answer = take_result(call, place.worker)
        except GetTimeoutError:
            return  # the answer has left this machine's memory; it still has until the deadline
        except WorkerFailed as failure:
            # A worker that was up has died otherwise, even if its place was asked for anew since:
            # the schedule must hear of it.
            stands_back = place.doing == "starting" and self._start_where_it_stands_back(
                self._slots.index(place)
            )
            if not (stands_back or self._weights_are_lost(place, failure)):
                self._lose(place, failure)
            return
        doing, groups = place.doing, place.groups
        place.end_call()
        if doing == "starting":
            log.info("rollout engine: %s", answer)
            self._events.append(WorkerUp(place.worker))
        elif doing == "loading":
            place.joining = False
            self._events.append(WeightsLoaded(place.worker, answer))
        else:
            self._lost_in_a_row, self._counted_at = 0, -math.inf
            self._events.append(BatchSampled(place.worker, groups))

    def take_events(self) -> list[RolloutEvent]:
        """What has happened since the last call, in order.

        That a worker is up is told only when nobody sleeps: it would be asked to load weights.
        """
        events, self._events = self._events, []
        if not self._asleep:
            return events
        self._events = [event for event in events if isinstance(event, WorkerUp)]
        return [event for event in events if not isinstance(event, WorkerUp)]

    def discard(self, worker: str, reason: str) -> None:
        """Replace a worker that may not be used any more; does nothing if it is gone already.

        The worker is well, so this is no loss that ``rollout.restarts`` limits.
        """
        for place in list(self._slots):
            if place.worker == worker and not place.lost:
                self._lose(place, WorkerFailed(reason), blamed=False)

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group] | None:
        """The groups themselves, with their images; None if one is lost with its machine.

        Raises ``WorkerFailed`` that names the prompt of a group which does not come in time.
        """
        try:
            return fetch_groups(groups, self.config.timeout_s)
        except ObjectLost as lost:
            log.warning("%s", lost)
            return None

    @property
    def sleeping(self) -> bool:
        """Whether the workers sleep. Then none is started."""
        return self._asleep

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Have every worker sleep while the block runs, if the settings say so.

        No worker may be sampling, and none ``starting``. One that fails to sleep or to wake is
        lost. When the block fails, all sleep on until ``wake``: the learner that failed may still
        fill the GPU.
        """
        if not self.config.sleep_while_learning:
            yield
            return
        self._end_starts()
        self._all_do("sleep")
        self._asleep = True
        yield
        self.wake()

    def wake(self) -> None:
        """Wake the workers, if they sleep."""
        if self._asleep:
            self._asleep = False
            self._all_do("wake")

    @property
    def starting(self) -> bool:
        """Whether there is a worker that loads its model for the first time, and others that are
        to sleep soon: it would load onto the GPU that the learner is about to fill."""
        pairs = zip(self._slots, self.running, strict=True)
        return self.config.sleep_while_learning and any(
            place.doing == "starting" and is_here(running) for place, running in pairs
        )

    def _end_starts(self) -> None:
        """Give up workers that wait for a place: one of them could begin to load at any time.

        They are asked for again when the others have woken up, with the deadline that they had.
        This is no loss.
        """
        for index, place in enumerate(self._slots):
            if place.doing == "starting":
                ray.kill(self.workers[index])
                place.start_by = place.deadline
                place.look_at = self._look_at.pop(place.name, math.inf)
                place.end_call()
                place.start_at = time.monotonic()

    def _all_do(self, what: str) -> None:
        there = [place for place in self._slots if not place.lost]
        calls = [getattr(self._process(place), what).remote() for place in there]
        for place, call in zip(there, calls, strict=True):
            stopped = partial(self.stopped_workers, only=place.name)
            try:
                wait_all([call], [place.worker], self.config.load_timeout_s, stopped)
            except WorkerFailed as failure:
                self._lose(place, failure)

    def _called(self, place: _Place, doing: str, call: ray.ObjectRef, timeout_s: float) -> None:
        place.end_call()
        place.doing, place.call = doing, call
        place.deadline = time.monotonic() + timeout_s

    def _timeout_of(self, doing: str) -> float:
        return {
            "starting": self._start_timeout_s,
            "loading": self.config.load_timeout_s,
        }.get(doing, self.config.timeout_s)

    def _weights_are_lost(self, place: _Place, failure: WorkerFailed) -> bool:
        """Whether the worker failed only because the weights that it was to load are gone."""
        weights = place.weights
        if weights is None or weights.refs is None or not isinstance(failure, ObjectLost):
            return False
        if failure.object_hex not in {ref.hex() for ref in weights.refs}:
            return False
        version = weights.weight_version
        self._events.append(WeightsLost(place.worker, version, str(failure)))
        place.end_call()
        return True

    def _place(self, worker: str) -> _Place:
        return next(place for place in self._slots if place.worker == worker)

    def _process(self, place: _Place) -> Any:
        return self.workers[self._slots.index(place)]

    def _lose(self, place: _Place, failure: WorkerFailed, blamed: bool = True) -> None:
        """Kill the worker, report it as lost, and set the time at which a new one is started.

        Only a loss of a worker that is ``blamed`` is one of those in a row.
        """
        ray.kill(self._process(place))
        # Nobody has heard yet that it is up, if it was lost while the others sleep.
        self._events = [event for event in self._events if event != WorkerUp(place.worker)]
        if self._ends_with_loss(place, failure):
            self._events.append(WorkerLost(place.worker, str(failure)))
            return
        if blamed and place.started_at >= self._counted_at:
            self._lost_in_a_row, self._counted_at = self._lost_in_a_row + 1, time.monotonic()
        if blamed and self._lost_in_a_row > self.config.restarts:
            raise WorkerFailed(
                f"{failure}; it was the last of {self._lost_in_a_row} losses of rollout workers in"
                " a row without a batch sampled in between"
            ) from failure
        log.warning("%s; it is replaced", failure)
        self.restarts += 1
        self._events.append(WorkerLost(place.worker, str(failure)))
        pause_s = min(2.0 ** (self._lost_in_a_row - 2), _LONGEST_PAUSE_S)
        place.end_call()
        waits = blamed and self._lost_in_a_row > 1
        place.start_at = time.monotonic() + (pause_s if waits else 0.0)


def _bring_to(host: str, refs: Sequence[ray.ObjectRef]) -> None:
    """An empty task on the host: Ray brings a task's arguments to its host before it starts it."""
    nothing = ray.remote(lambda *_: None).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(host, soft=False),
    )
    nothing.remote(*refs)


def fetch_groups(groups: Sequence[GroupRef], timeout_s: float) -> list[Group]:
    """Bring groups to this process, with their images.

    Raises ``WorkerFailed`` that names the prompt of a group which is lost or does not come in time.
    """
    names = [f"the group of prompt {group.prompt.id}" for group in groups]
    return wait_all([group.ref for group in groups], names, timeout_s)
