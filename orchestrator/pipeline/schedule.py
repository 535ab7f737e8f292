"""Decides which batch may be sampled by which worker, and when a step can be trained.

A state machine without Ray, clock or threads. Events come in as method calls, in any order that
deaths and delays can produce. Orders come out of ``take_orders``. The pipeline, the simulation and
the tests run the same machine.

Staleness. Step s trains weight version s into version s + 1. Its groups may be sampled once version
s - ``max_staleness`` is published, and a worker always takes the newest version before it begins a
batch. So a group of step s was sampled by version s - ``max_staleness`` or newer. No work that was
begun is thrown away for its age. At staleness 0 every group of step s comes from version s.

Determinism. Groups are dealt in batches that depend on the settings alone. A batch whose worker is
lost is repeated whole, by whichever worker is free. At staleness 0 the repeated batch has the same
weights and seeds, so its trajectories are the same to the bit.

Scaling. Workers may come and leave at any time. The batches stay those of the settings, so at
staleness 0 the trajectories do not depend on the number of workers. A worker that is to leave
finishes its batch first: nothing is repeated.

Poison. A batch that loses ``attempts`` workers in a row is cut into its groups. A group that then
loses as many by itself is dropped, and its step trains without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

Work = int | str  # a step, or the name of a job beside the steps, such as an evaluation


@dataclass(frozen=True)
class Layout:
    """How the groups of a step are dealt; it never changes during a run."""

    shares: int  # the most workers that the settings speak of
    groups_per_batch: int  # groups that a worker samples in one call

    def batches(self, places: Sequence[int]) -> list[tuple[int, ...]]:
        """Share k of n has the places k, k + n, ...; shares are cut into batches, in turns."""
        shares = [places[index :: self.shares] for index in range(self.shares)]
        longest = max(map(len, shares), default=0)
        return [
            tuple(share[start : start + self.groups_per_batch])
            for start in range(0, longest, self.groups_per_batch)
            for share in shares
            if start < len(share)
        ]


@dataclass(frozen=True)
class Batch:
    """Groups that one worker samples in one call."""

    work: Work
    places: tuple[int, ...]
    draw: int = 0  # which seeds: each replacement of groups that could not be scored has its own
    losses: int = 0  # workers that were lost over it


@dataclass(frozen=True)
class Load:
    """Order: the worker loads the newest weights."""

    worker: str
    version: int


@dataclass(frozen=True)
class Sample:
    """Order: the worker samples the batch."""

    worker: str
    batch: Batch


@dataclass(frozen=True)
class End:
    """Order: the worker has nothing left to do, and its process ends."""

    worker: str


@dataclass(frozen=True)
class Drop:
    """Notice: the group is lost to its step for good."""

    step: int
    place: int
    draw: int
    losses: int


Order = Load | Sample | End | Drop


class Stage(Enum):
    """Where a group is."""

    WAITING = "waiting"
    GENERATING = "generating"
    SCORING = "scoring"
    READY = "ready"
    TOO_FEW = "too few scored"  # it waits for the other groups of its draw, then it is redrawn
    DROPPED = "dropped"


@dataclass
class _Group:
    stage: Stage = Stage.WAITING
    version: int | None = None  # weights that sampled it
    batch: Batch | None = None  # with which it was sampled


@dataclass
class _Worker:
    version: int | None = None  # weights that it serves; None before it has proved any
    loading: int | None = None
    batch: Batch | None = None
    void: bool = False  # what it samples comes from weights that a fall back has undone
    leaving: bool = False  # it gets no new work


@dataclass
class _Work:
    groups: dict[int, _Group]
    draw: int = 0
    queue: list[Batch] = field(default_factory=list)


class Schedule:
    """See the module. Steps count from 0; ``first_step`` is also the version that is published
    first."""

    def __init__(
        self,
        layout: Layout,
        groups_per_step: int,
        first_step: int,
        last_step: int,
        max_staleness: int = 0,
        attempts: int = 3,
    ) -> None:
        """``last_step`` is the number of steps of the run; ``attempts`` is described above."""
        self.max_staleness = max_staleness
        self._layout, self._size, self._attempts = layout, groups_per_step, attempts
        self._last_step = last_step
        self.step = first_step  # the step that is trained next
        self.published: int | None = None
        self._expected: int | None = None  # the version that is being published
        self._workers: dict[str, _Worker] = {}
        self._works: dict[Work, _Work] = {}
        self._orders: list[Order] = []
        self._changed = False  # since the last orders

    # Events

    def expect(self, version: int) -> None:
        """The weights ``version`` are on their way. A worker without work waits for them, and
        serves them when it has proved them and they are published."""
        self._changed = True
        self._expected = version

    def publish(self, version: int, hold: bool = False) -> None:
        """The weights ``version`` can be loaded from now on.

        They admit the steps that may be sampled by them; with ``hold`` only ``admit`` does.
        """
        self._changed = True
        self.published, self._expected = version, None
        if not hold:
            self.admit()

    def admit(self) -> None:
        """Let the steps be sampled that the published weights allow."""
        self._changed = True
        if self.published is None:
            return
        newest = min(self.published + self.max_staleness, self._last_step - 1)
        for step in range(self.step, newest + 1):
            if step not in self._works:
                queue = self._batches(step, range(self._size), 0)
                groups = {place: _Group() for place in range(self._size)}
                self._works[step] = _Work(groups, queue=queue)

    def worker_up(self, worker: str) -> None:
        """A worker that serves nothing yet can take orders. The name is never used again."""
        self._changed = True
        self._workers[worker] = _Worker()

    def worker_loaded(self, worker: str, version: int) -> None:
        """The worker has proved that it serves ``version``."""
        self._changed = True
        state = self._workers.get(worker)
        if state is None or state.loading != version:
            return  # it was lost, or a fall back has undone the version
        state.version, state.loading = version, None

    def weights_lost(self, worker: str, version: int) -> bool:
        """The worker cannot load ``version``, because the machine that held it is gone.

        It may have loaded a part of them, so it serves nothing until it has loaded a whole version.
        Returns whether ``version`` is still the published one, so that no worker can go on without
        it.
        """
        self._changed = True
        state = self._workers.get(worker)
        if state is not None and state.loading == version:
            state.version = state.loading = None
        return self.published == version

    def sampled(self, worker: str) -> Batch | None:
        """The worker has finished its batch; returns the batch, or None if nobody wants it."""
        self._changed = True
        state = self._workers.get(worker)
        if state is None or state.batch is None:
            return None
        batch, state.batch = state.batch, None
        wanted = not state.void and batch.work in self._works
        if wanted:
            groups = self._works[batch.work].groups
            for place in batch.places:
                groups[place] = _Group(Stage.SCORING, state.version, batch)
        state.void = False
        return batch if wanted else None

    def worker_lost(self, worker: str) -> None:
        """The worker is dead, or nobody listens to it any more."""
        self._changed = True
        state = self._workers.pop(worker, None)
        if state is None or state.batch is None or state.void:
            return
        if state.batch.work in self._works:
            self._repeat(state.batch)

    def drain(self, worker: str) -> None:
        """The worker is to leave. It finishes the batch that it has; then ``End`` is ordered."""
        self._changed = True
        if worker in self._workers:
            self._workers[worker].leaving = True

    def scored(self, step: int, place: int, enough: bool) -> None:
        """A group's scores are there; ``enough`` says whether it can be trained on."""
        self._changed = True
        work = self._works.get(step)
        if work is None or work.groups[place].stage is not Stage.SCORING:
            return  # a fall back has undone it
        work.groups[place].stage = Stage.READY if enough else Stage.TOO_FEW
        self._redraw(step, work)

    def lost(self, name: Work, places: Sequence[int]) -> list[int]:
        """Sampled groups are gone, because the machine that held them is.

        The batches they were sampled in are repeated whole, or their numbers would differ. Returns
        the places of all groups in these batches: what was known of their scores is void. A group
        of an earlier draw is left out: other groups of its batch have been drawn again since.
        """
        self._changed = True
        work = self._works.get(name)
        if work is None:
            return []
        sampled_in = [work.groups[place].batch for place in places]
        batches = {batch for batch in sampled_in if batch is not None and batch.draw == work.draw}
        repeated: list[int] = []
        for batch in sorted(batches, key=lambda batch: batch.places):
            for place in batch.places:
                work.groups[place] = _Group()
            repeated += batch.places
            work.queue.append(replace(batch, losses=0))
        return repeated

    def trained(self, step: int) -> None:
        """Step ``step`` is in the weights; its groups are forgotten."""
        self._changed = True
        assert step == self.step
        assert self.ready(step)
        del self._works[step]
        self.step += 1

    def fall_back(self, step: int) -> None:
        """Go on from weight version ``step``: what was done since then never happened.

        Nothing is sampled until a version is published. Then every step from ``step`` on is dealt
        as in a run that begins there.
        """
        self._changed = True
        self.published = self._expected = None
        self.step = step
        self._works.clear()
        self._orders.clear()  # notices of groups that are not there any more
        for state in self._workers.values():
            # The weights after ``step`` are trained again, so nobody may serve the old ones. A
            # worker that is loading may serve either version by now.
            kept = state.version is not None and state.version <= step and state.loading is None
            state.version = state.version if kept else None
            state.loading = None
            state.void = state.batch is not None

    # Jobs beside the steps

    def add_job(self, name: str, count: int, groups_per_batch: int) -> None:
        """Have ``count`` groups sampled by the newest weights, before those of any step."""
        self._changed = True
        self._works[name] = work = _Work({place: _Group() for place in range(count)})
        layout = replace(self._layout, groups_per_batch=groups_per_batch)
        work.queue = [Batch(name, places) for places in layout.batches(range(count))]

    def end_job(self, name: str) -> None:
        """Forget a job, done or not."""
        del self._works[name]
        for state in self._workers.values():
            if state.batch is not None and state.batch.work == name:
                state.void = True

    # Answers

    def take_orders(self) -> list[Order]:
        """The orders since the last call, in the order in which they are to be followed.

        Workers are given work only here: many events may come between two calls.
        """
        if self._changed:
            self._assign()
            self._changed = False
        orders, self._orders = self._orders, []
        return orders

    def ready(self, step: int) -> bool:
        """Whether every group of the step can be trained on, but for those that are dropped."""
        work = self._works.get(step)
        return work is not None and all(
            group.stage in (Stage.READY, Stage.DROPPED) for group in work.groups.values()
        )

    def all_sampled(self, step: int) -> bool:
        """Whether no group of the step waits for a rollout worker."""
        work = self._works.get(step)
        return work is not None and all(
            group.stage not in (Stage.WAITING, Stage.GENERATING) for group in work.groups.values()
        )

    def stages(self, work: Work) -> dict[int, Stage]:
        """Where each group of a step or job is."""
        return {place: group.stage for place, group in self._works[work].groups.items()}

    def serves(self, worker: str) -> int:
        """The weight version that a worker has proved last; -1 before the first."""
        state = self._workers.get(worker)
        return -1 if state is None or state.version is None else state.version

    def version(self, step: int, place: int) -> int | None:
        """The weights that sampled a group; None if it is not sampled."""
        return self._works[step].groups[place].version

    @property
    def workers(self) -> list[str]:
        """The workers that are not lost."""
        return list(self._workers)

    @property
    def waiting(self) -> int:
        """The number of batches that wait for a worker."""
        return sum(len(work.queue) for work in self._works.values())

    @property
    def steps(self) -> list[int]:
        """The steps that are admitted and not trained yet."""
        return sorted(name for name in self._works if isinstance(name, int))

    @property
    def loading(self) -> bool:
        """Whether a worker is loading weights."""
        return any(state.loading is not None for state in self._workers.values())

    # Rules

    def _batches(self, work: Work, places: Sequence[int], draw: int) -> list[Batch]:
        return [Batch(work, batch, draw) for batch in self._layout.batches(places)]

    def _assign(self) -> None:
        """Give every idle worker the newest weights, or else the next batch, or end it."""
        # The oldest batches come first: those of jobs, then of the step that is trained first.
        order = sorted(self._works, key=lambda name: (isinstance(name, int), name))
        queues = [self._works[name].queue for name in order]
        newest = self.published if self._expected is None else self._expected
        idle = [
            (worker, state)
            for worker, state in self._workers.items()
            if state.batch is None and state.loading is None
        ]
        for worker, state in idle:
            if state.leaving:
                del self._workers[worker]
                self._orders.append(End(worker))
                continue
            queue = next(filter(None, queues), None)
            if state.version is not None and state.version == self.published and queue:
                state.batch = batch = queue.pop(0)
                for place in batch.places:
                    self._works[batch.work].groups[place].stage = Stage.GENERATING
                self._orders.append(Sample(worker, batch))
            elif newest is not None and state.version != newest:
                state.loading = newest
                self._orders.append(Load(worker, newest))

    def _repeat(self, batch: Batch) -> None:
        """Queue the batch of a lost worker again, or what the rule of poison makes of it."""
        work = self._works[batch.work]
        for place in batch.places:
            work.groups[place] = _Group()
        losses = batch.losses + 1
        if losses < self._attempts:
            work.queue.insert(0, Batch(batch.work, batch.places, batch.draw, losses))
        elif len(batch.places) > 1:
            singles = [Batch(batch.work, (place,), batch.draw) for place in batch.places]
            work.queue = singles + work.queue
        else:
            (place,) = batch.places
            work.groups[place].stage = Stage.DROPPED
            if isinstance(batch.work, int):
                self._orders.append(Drop(batch.work, place, batch.draw, losses))
                self._redraw(batch.work, work)

    def _redraw(self, step: int, work: _Work) -> None:
        """Sample groups with too few scores again, once all groups of their draw are through.

        What is drawn again then depends on the groups alone, and not on which came first.
        """
        at_work = (Stage.WAITING, Stage.GENERATING, Stage.SCORING)
        # The last groups are through last, so one of them tells soonest that not all are.
        if any(group.stage in at_work for group in reversed(work.groups.values())):
            return
        short = [p for p, group in work.groups.items() if group.stage is Stage.TOO_FEW]
        if short:
            work.draw += 1
            for place in short:
                work.groups[place] = _Group()
            work.queue = self._batches(step, short, work.draw)
