"""Stand-ins that sleep: the pipeline's own code with workers that do nothing for a set time.

Schedule, stages, ledger and clock are those of a real run. Only the pools and the learner are
replaced. So what the driver itself costs, and how well stages overlap, can be measured with any
number of workers.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.roles import Scalable
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.stages import Stages, groups_per_batch
from orchestrator.record.exporter import Exporter
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.resources import Resources
from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WorkerUp,
)
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, Prompt, Score
from rewards.scored_group import ScoredGroup
from rollout.engine import GenerationRequest


@dataclass(frozen=True)
class Seconds:
    """How long each stand-in sleeps for one call."""

    rollout: float  # one batch of a rollout worker
    reward: float  # one group of a reward worker
    learn: float
    sync: float = 0.0  # one worker's loading of weights


class Sleepers:
    """Calls that are answered after some seconds, of real time or of a clock of the caller's."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now, self._sleep = now, sleep
        self._due: list[tuple[float, int]] = []
        self._numbers = itertools.count()

    def call(self, seconds: float) -> int:
        """A call that is answered so many seconds from now."""
        number = next(self._numbers)
        heapq.heappush(self._due, (self._now() + seconds, number))
        return number

    def wait(self, calls: Sequence[int], timeout_s: float) -> list[int]:
        """The calls that are answered, once there is one; none after the timeout."""
        now = self._now()
        first = self._due[0][0] if self._due else now + timeout_s
        self._sleep(max(0.0, min(first - now, timeout_s)))
        done = []
        now = self._now()
        while self._due and self._due[0][0] <= now:
            done.append(heapq.heappop(self._due)[1])
        return done


class FixedNumber:
    """Plays ``roles.Scalable``; the number of workers never changes."""

    resources = Resources(1, 0)
    settled = True
    idle = queued = 0
    states: dict[str, str]

    @property
    def size(self) -> int:
        return len(self.states)

    joined = size

    def resize(self, size: int) -> None:
        raise AssertionError("nobody scales stand-ins")

    def take_failed_starts(self) -> list[str]:
        return []


class SleepingRollout(FixedNumber):
    """Plays ``roles.Rollout``."""

    wake_at = float("inf")

    def __init__(self, workers: int, sleepers: Sleepers, seconds: Seconds) -> None:
        self._sleepers, self._seconds = sleepers, seconds
        self._events: list[RolloutEvent] = [WorkerUp(f"worker {n}") for n in range(workers)]
        self._answers: dict[int, RolloutEvent] = {}
        self.states = {f"worker {n}": "idle" for n in range(workers)}

    @property
    def calls(self) -> list[int]:
        return list(self._answers)

    def advance(self) -> None:
        pass

    def receive(self, call: int) -> None:
        event = self._answers.pop(call)
        self.states[event.worker] = "idle"
        self._events.append(event)

    def take_events(self) -> list[RolloutEvent]:
        events, self._events = self._events, []
        return events

    def bring(self, weights: PublishedWeights) -> None:
        pass

    def load(self, worker: str, weights: PublishedWeights) -> None:
        receipt = WeightReceipt(weights.weight_version, "", np.zeros(1, dtype=np.float32))
        answer = WeightsLoaded(worker, receipt)
        self._answers[self._sleepers.call(self._seconds.sync)] = answer
        self.states[worker] = "loading"

    def sample(
        self, worker: str, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> None:
        nothing: Any = None  # there is no object
        groups = [GroupRef(r.prompt, nothing, len(r.seeds)) for r in requests]
        call = self._sleepers.call(self._seconds.rollout)
        self._answers[call] = BatchSampled(worker, groups)
        self.states[worker] = "sampling"

    def end(self, worker: str) -> None:
        raise AssertionError("a stand-in never leaves")

    def discard(self, worker: str, reason: str) -> None:
        raise AssertionError("a stand-in never fails")

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        raise AssertionError("a stand-in has no images")

    starting = sleeping = False

    def asleep(self) -> Any:
        return nullcontext()

    def wake(self) -> None:
        """A stand-in has no GPU to leave to others."""


class SleepingRewards:
    """Plays ``roles.Rewards``; one call scores a group with every reward."""

    wake_at = float("inf")

    def __init__(
        self, workers: int, names: Sequence[str], sleepers: Sleepers, seconds: Seconds
    ) -> None:
        self._sleepers, self._seconds, self._names = sleepers, seconds, names
        self._workers = self._free = workers
        self._queue: deque[tuple[Hashable, int, GroupRef]] = deque()
        self._answers: dict[int, tuple[Hashable, int, GroupRef]] = {}
        self._scored: list[tuple[Hashable, int, ScoredGroup]] = []
        self._made: dict[int, tuple[tuple[float, ...], dict[str, tuple[Score, ...]]]] = {}
        self.pools: dict[str, Scalable] = {}

    @property
    def states(self) -> dict[str, str]:
        busy = self._workers - self._free
        return {f"scorer {n}": "scoring" if n < busy else "idle" for n in range(self._workers)}

    @property
    def calls(self) -> list[int]:
        return list(self._answers)

    def advance(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            call = self._sleepers.call(self._seconds.reward)
            self._answers[call] = self._queue.popleft()

    def receive(self, call: int) -> None:
        self._free += 1
        key, place, group = self._answers.pop(call)
        values, results = self._scores(group.size)
        self._scored.append((key, place, ScoredGroup(group.prompt, values, results)))

    def _scores(self, size: int) -> tuple[tuple[float, ...], dict[str, tuple[Score, ...]]]:
        """The same for each group of a size: making them is no work of the driver."""
        if size not in self._made:
            values = tuple(float(index) for index in range(size))
            results = {name: tuple(Score(value) for value in values) for name in self._names}
            self._made[size] = values, results
        return self._made[size]

    def begin(
        self,
        key: Hashable,
        prompts: Sequence[Prompt],
        size: int,
        remember: bool = False,
        counted: bool = True,
    ) -> None:
        pass

    def add(self, key: Hashable, place: int, group: GroupRef) -> None:
        self._queue.append((key, place, group))

    def forget(self, key: Hashable, places: Sequence[int]) -> None:
        raise AssertionError("a stand-in never loses a group")

    def drop(self, key: Hashable, place: int) -> None:
        raise AssertionError("a stand-in never loses a worker")

    def end(self, key: Hashable) -> None:
        pass

    def take_scored(self) -> list[tuple[Hashable, int, ScoredGroup]]:
        scored, self._scored = self._scored, []
        return scored

    def take_lost(self) -> list[tuple[Hashable, int]]:
        return []

    def take_failures(self) -> list[str]:
        return []

    def take_usage(self) -> dict[str, Any]:
        return {}


class SleepingPublisher:
    """Plays ``roles.Publisher``: every receipt is right."""

    def publish(self, learner: Any, weight_version: int) -> PublishedWeights:
        return PublishedWeights(weight_version, refs=None)

    def complete(self, learner: Any, weights: PublishedWeights) -> None:
        """Nothing is on its way."""

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        return 0.0


@contextmanager
def stand_in_stages(
    config: RunConfig, folder: Path, seconds: Seconds, sleepers: Sleepers | None = None
) -> Iterator[Stages]:
    """The stages of a run whose pools sleep; the ledger is real."""
    sleepers = sleepers or Sleepers()
    prompts = [Prompt(id=f"{n}", text="a prompt", task_type="none") for n in range(64)]
    run_folder = RunFolder(folder)
    with open_ledger(config.ledger, folder, print) as ledger:
        yield Stages(
            config,
            prompts,
            Schedule(
                Layout(config.rollout.workers, groups_per_batch(config, config.rollout.group_size)),
                config.prompts_per_step,
                0,
                config.steps,
                config.max_staleness,
            ),
            SleepingRollout(config.rollout.workers, sleepers, seconds),
            SleepingRewards(
                config.rewards[0].workers,
                [reward.name for reward in config.rewards],
                sleepers,
                seconds,
            ),
            SleepingPublisher(),
            ledger,
            Drops(run_folder, config.replacements),
            sleepers.wait,
            lambda each, count: None,
            Exporter(config.name, ledger.epoch, config.steps, config.rollout.group_size).snapshot,
        )
    run_folder.close()


def run_steps(stages: Stages, steps: int, learn_s: float) -> Iterator[dict[str, float]]:
    """The training page without a learner; yields the row of each step's clock."""
    publisher = SleepingPublisher()
    stages.serve(publisher.publish(None, 0), evaluate=False)
    for step in range(steps):
        clock = Clock()
        stages.batch(step, clock)
        with clock.stage("learn"):
            stages.wait_for(Background(lambda: time.sleep(learn_s), "learn"))
        stages.trained(step)
        with clock.stage("sync"):
            stages.serve(publisher.publish(None, step + 1), evaluate=False)
        yield clock.row()
