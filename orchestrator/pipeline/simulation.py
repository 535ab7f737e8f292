"""Runs the schedule with simulated workers in virtual time, to compare settings before paying.

The schedule is the one of real runs. The order in which it is told and asked is that of
``orchestrator.pipeline.training`` and ``stages``: a step is trained when all its groups are scored;
then its weights are published, and the next step waits until no worker is loading them. A loss of
the learner falls back to the last checkpoint. Rollout workers are spread over hosts. The learner's
host sends each version to one host after the other, once to each.

What is left out: evaluations, groups with too few scores, and the time of writing a checkpoint.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from orchestrator.pipeline.schedule import Batch, Layout, Load, Sample, Schedule
from orchestrator.record.progress import duration
from policy.errors import RunFailed

Role = Literal["rollout", "reward", "learner"]
_LONGEST = 100  # times the duration without overlap and faults, after which a run gets nowhere


@dataclass(frozen=True)
class Seconds:
    """How long each piece of work takes, in seconds."""

    rollout: float  # one worker samples one batch
    reward: float  # one worker of each reward scores one such batch
    learn: float  # one update
    sync: float  # one worker loads new weights
    start: float = 0.0  # a new worker, or a new learner group, starts
    fetch: float = 0.0  # new weights cross the link to one host


@dataclass(frozen=True)
class Scenario:
    """The settings of a run that decide about its schedule."""

    steps: int
    groups_per_step: int
    groups_per_batch: int
    rollout_workers: int
    # The groups of a step are dealt for so many, or for ``rollout_workers`` if these are more.
    max_rollout_workers: int | None
    reward_workers: int  # of the reward that has the fewest
    max_staleness: int
    checkpoint_every: int
    attempts: int  # see ``orchestrator.pipeline.schedule``
    hosts: int = 1  # that the rollout workers are spread over

    @property
    def layout(self) -> Layout:
        """How the groups of a step are dealt to the workers."""
        most = max(self.max_rollout_workers or 0, self.rollout_workers)
        return Layout(most, self.groups_per_batch)

    @property
    def batches_per_step(self) -> int:
        """Batches that a step is dealt in."""
        return len(self.layout.batches(range(self.groups_per_step)))

    @property
    def first_steps(self) -> int:
        """How many steps pass while the stages fill. Means are over the steps after these."""
        return min(self.max_staleness + 1, self.steps // 2)


@dataclass(frozen=True)
class Chance:
    """What is drawn at random."""

    seed: int = 0
    # Standard deviation of each duration over its mean. The durations are log-normal.
    spread: float = 0.0
    # Mean seconds between two losses, of all workers of a role together; a role that is not here
    # loses none.
    losses: Mapping[Role, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a simulated run shows. Shares are from 0 to 1."""

    step_s: float  # mean of the steps after the first ones, in which the stages fill
    run_s: float  # the whole run
    learner_idle: float  # share of the time in which no update is made
    rollout_idle: float  # share of the workers' time in which they neither sample nor load
    reward_idle: float  # share of the workers' time in which they score nothing
    staleness_mean: float  # over the trained groups, in weight versions
    staleness_max: int
    repeated_steps: int  # that were trained again after the learner was lost


class _Page(Enum):
    """What the training page waits for."""

    WEIGHTS = "no worker loads"
    BATCH = "all groups of the step are scored"
    LEARNER = "the update is made"
    START = "the learner has started"


@dataclass
class _Scorer:
    """One reward worker of each reward, as one."""

    batch: Batch | None = None
    busy: bool = False  # scoring or starting
    call: int = 0  # answers to earlier calls are not heard


class Simulation:
    """One simulated run. ``run`` can be called once."""

    def __init__(self, scenario: Scenario, seconds: Seconds, chance: Chance | None = None) -> None:
        self._scenario, self._seconds, self._chance = scenario, seconds, chance or Chance()
        self._random = random.Random(self._chance.seed)
        self._schedule = Schedule(
            scenario.layout,
            scenario.groups_per_step,
            0,
            scenario.steps,
            scenario.max_staleness,
            scenario.attempts,
        )
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._numbered = 0
        self._workers: list[str | None] = [None] * scenario.rollout_workers  # None: it starts
        self._up_count = 0
        self._hosts: dict[str, int] = {}  # of the workers that are up
        self._there_at: dict[tuple[int, int], float] = {}  # when a host has a version
        self._link_free_at = 0.0
        self._busy: set[str] = set()
        self._scorers = [_Scorer() for _ in range(scenario.reward_workers)]
        self._idle_scorers = scenario.reward_workers
        self._to_score: deque[Batch] = deque()
        self._page, self._learner_call = _Page.WEIGHTS, 0
        # Sums over the time after the first steps.
        self._measured_from = scenario.first_steps
        self._first_at: float | None = 0.0 if self._measured_from == 0 else None
        self._learner_idle_s = self._rollout_idle_s = self._reward_idle_s = 0.0
        self._staleness: list[int] = []
        self._repeated = 0

    def run(self) -> Outcome:
        """Raises ``RunFailed`` when there are so many losses that the run gets nowhere."""
        scenario = self._scenario
        for place in range(scenario.rollout_workers):
            self._up(place)
        for role, mean_s in self._chance.losses.items():
            self._lose_later(role, mean_s)
        self._schedule.publish(0)
        longest_s = _LONGEST * scenario.steps * self._step_in_turn_s()
        while self._schedule.step < scenario.steps:
            self._follow_orders()
            self._turn_page()
            self._advance()
            if self._now > longest_s:
                raise RunFailed(
                    f"with so many losses, step {self._schedule.step + 1} of {scenario.steps} is"
                    f" not done after {duration(self._now)}"
                )
        assert self._first_at is not None
        measured_s = self._now - self._first_at
        share = 1 / measured_s if measured_s else 0.0
        return Outcome(
            step_s=measured_s / (scenario.steps - self._measured_from),
            run_s=self._now,
            learner_idle=self._learner_idle_s * share,
            rollout_idle=self._rollout_idle_s * share / scenario.rollout_workers,
            reward_idle=self._reward_idle_s * share / scenario.reward_workers,
            staleness_mean=sum(self._staleness) / max(1, len(self._staleness)),
            staleness_max=max(self._staleness, default=0),
            repeated_steps=self._repeated,
        )

    # Time

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._numbered += 1  # events of one moment happen in the order in which they were planned
        heapq.heappush(self._events, (self._now + seconds, self._numbered, what))

    def _takes(self, mean_s: float) -> float:
        spread = self._chance.spread
        if not spread:
            return mean_s
        sigma = math.sqrt(math.log1p(spread**2))
        return mean_s * self._random.lognormvariate(-(sigma**2) / 2, sigma)

    def _advance(self) -> None:
        """Go to the next event."""
        time, _, happens = heapq.heappop(self._events)
        if self._first_at is not None:
            passed = time - self._now
            self._rollout_idle_s += passed * (self._up_count - len(self._busy))
            self._reward_idle_s += passed * self._idle_scorers
            self._learner_idle_s += passed * (self._page is not _Page.LEARNER)
        self._now = time
        happens()

    def _step_in_turn_s(self) -> float:
        """How long a step takes when all its work is done one piece after the other."""
        seconds = self._seconds
        batches = self._scenario.batches_per_step * (seconds.rollout + seconds.reward)
        return batches + seconds.learn + seconds.sync + seconds.start

    # The page

    def _turn_page(self) -> None:
        schedule = self._schedule
        if self._page is _Page.WEIGHTS and not schedule.loading:
            self._page = _Page.BATCH
        if self._page is _Page.BATCH and schedule.ready(schedule.step):
            self._page = _Page.LEARNER
            self._call_learner(self._seconds.learn, self._learned)

    def _call_learner(self, seconds: float, then: Callable[[], None]) -> None:
        self._learner_call += 1
        call = self._learner_call
        self._later(self._takes(seconds), lambda: then() if call == self._learner_call else None)

    def _learned(self) -> None:
        schedule, step = self._schedule, self._schedule.step
        versions = [schedule.version(step, place) for place in schedule.stages(step)]
        self._staleness += [step - version for version in versions if version is not None]
        schedule.trained(step)
        if self._first_at is None and schedule.step == self._measured_from:
            self._first_at = self._now
        for worker in sorted(self._busy):  # the weights travel to its host while it samples
            self._there(schedule.step, self._hosts[worker])
        schedule.publish(schedule.step)
        self._page = _Page.WEIGHTS

    # Rollout and reward workers

    def _up(self, place: int) -> None:
        self._numbered += 1
        name = f"{place}, process {self._numbered}"
        self._workers[place] = name
        self._up_count += 1
        self._hosts[name] = place % self._scenario.hosts
        self._schedule.worker_up(name)

    def _follow_orders(self) -> None:
        for order in self._schedule.take_orders():
            if isinstance(order, Load):
                self._load(order)
            elif isinstance(order, Sample):
                self._busy.add(order.worker)
                self._later(
                    self._takes(self._seconds.rollout),
                    lambda worker=order.worker: self._sampled(worker),  # type: ignore[misc]
                )

    def _load(self, order: Load) -> None:
        def loaded() -> None:
            if order.worker not in self._hosts:
                return  # it was lost meanwhile
            self._busy.discard(order.worker)
            self._schedule.worker_loaded(order.worker, order.version)

        self._busy.add(order.worker)
        wait_s = self._there(order.version, self._hosts[order.worker]) - self._now
        self._later(wait_s + self._takes(self._seconds.sync), loaded)

    def _there(self, version: int, host: int) -> float:
        """When the host has the weights ``version``, which are sent to it now if they were not."""
        if (version, host) not in self._there_at:
            self._link_free_at = max(self._now, self._link_free_at) + self._seconds.fetch
            self._there_at[version, host] = self._link_free_at
        return max(self._now, self._there_at[version, host])

    def _sampled(self, worker: str) -> None:
        if worker not in self._hosts:
            return  # it was lost meanwhile
        self._busy.discard(worker)
        batch = self._schedule.sampled(worker)
        if batch is not None:
            self._to_score.append(batch)
            self._score()

    def _score(self) -> None:
        for scorer in self._scorers:
            if not self._to_score:
                return
            if not scorer.busy:
                scorer.batch = self._to_score.popleft()
                self._occupy(scorer, self._seconds.reward)

    def _occupy(self, scorer: _Scorer, seconds: float) -> None:
        self._idle_scorers -= not scorer.busy
        scorer.busy = True
        self._call_scorer(scorer, seconds)

    def _call_scorer(self, scorer: _Scorer, seconds: float) -> None:
        scorer.call += 1
        call = scorer.call
        self._later(
            self._takes(seconds), lambda: self._scored(scorer) if call == scorer.call else None
        )

    def _scored(self, scorer: _Scorer) -> None:
        batch, scorer.batch, scorer.busy = scorer.batch, None, False
        self._idle_scorers += 1
        if batch is not None and isinstance(batch.work, int):
            for place in batch.places:
                self._schedule.scored(batch.work, place, enough=True)
        self._score()

    # Losses

    def _lose_later(self, role: Role, mean_s: float) -> None:
        lose = {
            "rollout": self._lose_rollout_worker,
            "reward": self._lose_reward_worker,
            "learner": self._lose_learner,
        }[role]

        def happens() -> None:
            lose()
            self._lose_later(role, mean_s)

        self._later(self._random.expovariate(1 / mean_s), happens)

    def _lose_rollout_worker(self) -> None:
        place = self._random.randrange(len(self._workers))
        worker = self._workers[place]
        if worker is None:
            return
        self._workers[place] = None
        self._up_count -= 1
        self._busy.discard(worker)
        del self._hosts[worker]
        self._schedule.worker_lost(worker)
        self._later(self._takes(self._seconds.start), lambda: self._up(place))

    def _lose_reward_worker(self) -> None:
        scorer = self._random.choice(self._scorers)
        if scorer.batch is not None:
            self._to_score.appendleft(scorer.batch)
        scorer.batch = None
        self._occupy(scorer, self._seconds.start)
        self._score()

    def _lose_learner(self) -> None:
        step = self._schedule.step
        saved = step - step % self._scenario.checkpoint_every
        self._there_at.clear()  # the same versions are made anew
        if self._page is not _Page.START:
            self._repeated += step - saved
        self._schedule.fall_back(saved)
        self._to_score.clear()
        for scorer in self._scorers:
            scorer.batch = None  # what is scored now, nobody wants any more
        self._page = _Page.START
        self._call_learner(self._seconds.start, self._formed)

    def _formed(self) -> None:
        self._schedule.publish(self._schedule.step)
        self._page = _Page.WEIGHTS
