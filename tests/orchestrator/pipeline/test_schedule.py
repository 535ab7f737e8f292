"""The schedule: what it promises holds for every order of events, deaths and delays included."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.pipeline.schedule import (
    Batch,
    Drop,
    End,
    Layout,
    Load,
    Sample,
    Schedule,
    Stage,
)


def test_a_step_is_dealt_by_shares_that_are_cut_into_batches() -> None:
    """Share k of two has every second place; both workers get their first batches at once."""
    assert Layout(2, 2).batches(range(7)) == [(0, 2), (1, 3), (4, 6), (5,)]
    assert Layout(3, 8).batches([1, 5]) == [(1,), (5,)]


def test_at_staleness_0_a_step_waits_for_its_own_weights() -> None:
    """The paper's schedule: load, sample, score, train, and only then the next step."""
    schedule = Schedule(Layout(1, 2), groups_per_step=2, first_step=0, last_step=2)
    schedule.worker_up("a")
    assert schedule.take_orders() == []
    schedule.publish(0)
    assert schedule.take_orders() == [Load("a", 0)]
    schedule.worker_loaded("a", 0)
    batch = Batch(0, (0, 1))
    assert schedule.take_orders() == [Sample("a", batch)]
    assert schedule.sampled("a") == batch
    assert schedule.take_orders() == []  # step 1 wants version 1
    schedule.scored(0, 0, enough=True)
    assert not schedule.ready(0)
    schedule.scored(0, 1, enough=True)
    assert schedule.ready(0)
    schedule.trained(0)
    schedule.publish(1)
    assert schedule.take_orders() == [Load("a", 1)]


def test_at_staleness_1_the_next_step_is_sampled_while_one_is_trained() -> None:
    """It may begin with version 0, and it begins with version 1 once that is published."""
    schedule = Schedule(Layout(1, 1), 2, first_step=0, last_step=9, max_staleness=1)
    schedule.worker_up("a")
    schedule.publish(0)
    schedule.take_orders()
    schedule.worker_loaded("a", 0)
    schedule.take_orders()
    for place in (0, 1):
        schedule.sampled("a")
        schedule.scored(0, place, enough=True)
        orders = schedule.take_orders()
    assert orders == [Sample("a", Batch(1, (0,)))]
    schedule.trained(0)
    schedule.publish(1)
    assert schedule.take_orders() == []  # between two batches, not within one
    schedule.sampled("a")
    assert schedule.take_orders() == [Load("a", 1)]
    schedule.worker_loaded("a", 1)
    assert schedule.take_orders() == [Sample("a", Batch(1, (1,)))]
    assert schedule.version(1, 0) == 0


def test_groups_with_too_few_scores_are_drawn_again_together() -> None:
    """Once all groups of the draw are through, whichever came first."""
    schedule = Schedule(Layout(1, 3), 3, first_step=0, last_step=1)
    schedule.worker_up("a")
    schedule.publish(0)
    schedule.take_orders()
    schedule.worker_loaded("a", 0)
    schedule.take_orders()
    schedule.sampled("a")
    schedule.take_orders()
    schedule.scored(0, 2, enough=False)
    schedule.scored(0, 0, enough=False)
    assert schedule.take_orders() == []
    schedule.scored(0, 1, enough=True)
    assert schedule.take_orders() == [Sample("a", Batch(0, (0, 2), draw=1))]


def test_a_group_that_kills_its_worker_each_time_is_dropped() -> None:
    """The batch is tried as often as asked, then each of its groups alone."""
    schedule = Schedule(Layout(1, 2), 2, first_step=0, last_step=1, attempts=2)
    schedule.publish(0)
    tried = []
    for number in range(9):
        worker = f"worker {number}"
        schedule.worker_up(worker)
        notices = schedule.take_orders()
        schedule.worker_loaded(worker, 0)
        orders = notices + schedule.take_orders()
        dropped = [order for order in orders if isinstance(order, Drop)]
        sampled = [order.batch.places for order in orders if isinstance(order, Sample)]
        tried += dropped + sampled
        if sampled == [(1,)]:  # the other group is harmless
            schedule.sampled(worker)
            schedule.scored(0, 1, enough=True)
            break
        schedule.worker_lost(worker)
    assert tried == [(0, 1), (0, 1), (0,), (0,), Drop(0, 0, 0, 2), (1,)]
    assert schedule.ready(0)
    assert schedule.stages(0) == {0: Stage.DROPPED, 1: Stage.READY}


def test_a_fall_back_undoes_what_was_done_since() -> None:
    """Weights 1 are lost while they sample step 2. The run goes on with step 0 and version 0."""
    schedule = Schedule(Layout(1, 1), 1, first_step=0, last_step=9, max_staleness=1)
    schedule.publish(0)
    schedule.worker_up("a")
    schedule.take_orders()
    schedule.worker_loaded("a", 0)
    schedule.take_orders()
    schedule.sampled("a")
    schedule.scored(0, 0, enough=True)
    schedule.take_orders()
    schedule.trained(0)
    schedule.publish(1)
    schedule.sampled("a")  # step 1, by version 0
    schedule.scored(1, 0, enough=True)
    schedule.take_orders()
    schedule.worker_loaded("a", 1)
    assert schedule.take_orders()[-1] == Sample("a", Batch(2, (0,)))
    schedule.fall_back(0)
    assert schedule.steps == []
    schedule.publish(0)
    assert schedule.take_orders() == []  # the worker is busy with what nobody wants any more
    assert schedule.sampled("a") is None
    assert schedule.take_orders() == [Load("a", 0)]
    schedule.worker_loaded("a", 0)
    assert schedule.take_orders() == [Sample("a", Batch(0, (0,)))]


def test_a_lost_group_takes_its_whole_batch_with_it() -> None:
    """Or its numbers would be those of a smaller batch."""
    schedule = Schedule(Layout(1, 2), 4, first_step=0, last_step=1)
    schedule.worker_up("a")
    schedule.publish(0)
    schedule.take_orders()
    schedule.worker_loaded("a", 0)
    schedule.take_orders()
    for _ in range(2):
        schedule.sampled("a")
        schedule.take_orders()
    schedule.scored(0, 0, enough=True)
    schedule.scored(0, 3, enough=True)
    schedule.take_orders()
    assert schedule.lost(0, [0]) == [0, 1]
    assert schedule.take_orders() == [Sample("a", Batch(0, (0, 1)))]
    assert schedule.stages(0)[3] is Stage.READY


def test_a_worker_that_leaves_finishes_its_batch_and_gets_no_other() -> None:
    """Two workers sample when both are to leave. A third one goes on with the step alone."""
    schedule = Schedule(Layout(3, 1), 4, first_step=0, last_step=1)
    for worker in ("a", "b"):
        schedule.worker_up(worker)
    schedule.publish(0)
    schedule.take_orders()
    for worker in ("a", "b"):
        schedule.worker_loaded(worker, 0)
    assert schedule.take_orders() == [Sample("a", Batch(0, (0,))), Sample("b", Batch(0, (1,)))]
    assert schedule.waiting == 2
    schedule.worker_up("c")
    schedule.drain("a")
    schedule.drain("b")
    assert schedule.take_orders() == [Load("c", 0)]
    assert schedule.sampled("a") == Batch(0, (0,))
    assert schedule.take_orders() == [End("a")]
    schedule.worker_loaded("c", 0)
    assert schedule.take_orders() == [Sample("c", Batch(0, (2,)))]
    schedule.worker_lost("b")  # before it was done: its batch goes to another worker, once
    schedule.sampled("c")
    assert schedule.take_orders() == [Sample("c", Batch(0, (1,), losses=1))]
    assert schedule.workers == ["c"]


def test_an_idle_worker_leaves_even_while_no_weights_are_published() -> None:
    """After a fall back nobody samples, and the worker would otherwise wait for the learner."""
    schedule = Schedule(Layout(1, 1), 1, first_step=0, last_step=1)
    schedule.worker_up("a")
    schedule.drain("a")
    assert schedule.take_orders() == [End("a")]


def test_an_idle_worker_loads_what_is_still_being_published() -> None:
    """A worker that samples goes on, and takes work for the version it serves before it waits. One
    that has loaded samples when the version is published."""
    schedule = Schedule(Layout(2, 1), 3, first_step=0, last_step=9, max_staleness=1)
    schedule.worker_up("a")
    schedule.expect(0)
    assert schedule.take_orders() == [Load("a", 0)]
    schedule.worker_up("b")
    assert schedule.take_orders() == [Load("b", 0)]
    schedule.worker_loaded("a", 0)
    assert schedule.take_orders() == []
    schedule.publish(0)
    assert schedule.take_orders() == [Sample("a", Batch(0, (0,)))]
    schedule.worker_loaded("b", 0)
    assert schedule.take_orders() == [Sample("b", Batch(0, (1,)))]
    for _ in range(4):
        schedule.sampled("b")
        schedule.take_orders()
    schedule.expect(1)  # of the two steps that are admitted, ``b`` samples the last batch
    assert schedule.take_orders() == []
    schedule.sampled("b")
    assert schedule.take_orders() == [Load("b", 1)]
    schedule.publish(1)
    assert schedule.serves("b") == 0
    schedule.worker_loaded("b", 1)
    assert schedule.serves("b") == 1


def test_a_worker_whose_push_broke_off_serves_nothing_until_it_has_loaded_a_whole_version() -> None:
    """The learner died while it published version 1, or the host that held the weights did. The
    worker had version 0, to which the run falls back, and may hold a part of version 1."""
    schedule = Schedule(Layout(1, 1), 1, first_step=0, last_step=9, max_staleness=1)
    schedule.worker_up("a")
    schedule.publish(0)
    schedule.take_orders()
    schedule.worker_loaded("a", 0)
    for _ in range(2):
        schedule.take_orders()
        schedule.sampled("a")
    schedule.expect(1)
    assert schedule.take_orders() == [Load("a", 1)]
    schedule.fall_back(0)
    assert schedule.take_orders() == []
    schedule.publish(0)
    assert schedule.take_orders() == [Load("a", 0)]
    assert schedule.weights_lost("a", 0)
    assert schedule.serves("a") == -1
    assert schedule.take_orders() == [Load("a", 0)]
    schedule.worker_loaded("a", 0)
    assert schedule.take_orders() == [Sample("a", Batch(0, (0,)))]


class AnyOrderOfEvents(RuleBasedStateMachine):
    """A run in which everything may happen at any time, and workers that do what they are told."""

    @initialize(
        shares=st.integers(1, 3), size=st.integers(1, 2), count=st.integers(1, 5),
        staleness=st.integers(0, 2), start=st.integers(0, 2),
    )  # fmt: skip
    def begin(self, shares: int, size: int, count: int, staleness: int, start: int) -> None:
        self.schedule = Schedule(Layout(shares, size), count, start, start + 4, staleness)
        self.staleness, self.count, self.last = staleness, count, start + 4
        self.version = start  # of the learner
        self.published = False
        self.serves: dict[str, int] = {}
        self.asked: dict[str, Load | Sample] = {}
        self.trained: Counter[tuple[int, int]] = Counter()
        self.unscored: list[tuple[int, int]] = []
        self.dropped: set[tuple[int, int]] = set()
        self.jobs: list[str] = []
        self.leaving: set[str] = set()
        self.born = 0

    def follow(self) -> None:
        for order in self.schedule.take_orders():
            if isinstance(order, Drop):
                self.dropped.add((order.step, order.place))
                continue
            assert order.worker in self.serves, "no order for a worker that is gone"
            if isinstance(order, End):
                assert order.worker in self.leaving
                assert not isinstance(self.asked.pop(order.worker, None), Sample)
                del self.serves[order.worker]
                continue
            assert order.worker not in self.leaving, "a worker that leaves gets no order"
            if isinstance(order, Sample):
                assert order.worker not in self.asked or isinstance(self.asked[order.worker], Load)
                served = self.serves[order.worker]
                if isinstance(order.batch.work, int):
                    assert served >= order.batch.work - self.staleness
                    assert served <= order.batch.work
            self.asked[order.worker] = order

    @rule()
    def a_worker_comes(self) -> None:
        self.born += 1
        self.serves[f"{self.born}"] = -1
        self.schedule.worker_up(f"{self.born}")
        self.follow()

    @rule(pick=st.randoms(use_true_random=False))
    def a_worker_is_to_leave(self, pick: random.Random) -> None:
        if self.serves:
            worker = pick.choice(sorted(self.serves))
            self.leaving.add(worker)
            self.schedule.drain(worker)
            self.follow()
            assert (worker in self.serves) == (worker in self.asked)

    @precondition(lambda self: not self.published)
    @rule()
    def expect(self) -> None:
        self.schedule.expect(self.version)
        self.follow()

    @precondition(lambda self: not self.published)
    @rule()
    def publish(self) -> None:
        self.published = True
        self.schedule.publish(self.version)
        self.follow()

    @rule(pick=st.randoms(use_true_random=False))
    def a_worker_answers(self, pick: random.Random) -> None:
        if not self.asked:
            return
        worker = pick.choice(sorted(self.asked))
        order = self.asked[worker]
        if isinstance(order, Load) and order.version == self.version and not self.published:
            return  # nobody listens before all of the weights are published
        del self.asked[worker]
        if isinstance(order, Load):
            self.serves[worker] = order.version
            self.schedule.worker_loaded(worker, order.version)
        elif (batch := self.schedule.sampled(worker)) is not None:
            assert batch == order.batch
            if isinstance(batch.work, int):
                self.unscored += [(batch.work, place) for place in batch.places]
        self.follow()

    @rule(pick=st.randoms(use_true_random=False))
    def a_worker_is_lost_and_answers_late(self, pick: random.Random) -> None:
        if not self.serves:
            return
        worker = pick.choice(sorted(self.serves))
        del self.serves[worker]
        self.asked.pop(worker, None)
        self.schedule.worker_lost(worker)
        self.follow()
        assert self.schedule.sampled(worker) is None
        self.schedule.worker_loaded(worker, self.version)
        self.follow()

    @rule(pick=st.randoms(use_true_random=False), enough=st.sampled_from([True, True, False]))
    def a_group_is_scored(self, pick: random.Random, enough: bool) -> None:
        if self.unscored:
            group = self.unscored.pop(pick.randrange(len(self.unscored)))
            self.schedule.scored(*group, enough)
            self.follow()

    @rule(pick=st.randoms(use_true_random=False))
    def a_group_is_lost(self, pick: random.Random) -> None:
        if not self.unscored:
            return
        step, place = pick.choice(self.unscored)
        repeated = self.schedule.lost(step, [place])
        assert place in repeated
        self.unscored = [g for g in self.unscored if g[0] != step or g[1] not in repeated]
        assert self.schedule.lost(step, [place]) == []  # another reward finds it lost too
        self.follow()

    @rule(pick=st.randoms(use_true_random=False))
    def weights_are_lost(self, pick: random.Random) -> None:
        loads = [
            (worker, order)
            for worker, order in sorted(self.asked.items())
            if isinstance(order, Load) and (self.published or order.version != self.version)
        ]
        if not loads:
            return
        worker, order = pick.choice(loads)
        del self.asked[worker]
        self.serves[worker] = -1  # it may hold a part of the lost version
        if self.schedule.weights_lost(worker, order.version):
            self.the_learner_is_lost(1)
        self.follow()

    @precondition(lambda self: self.published and self.version < self.last)
    @rule()
    def train(self) -> None:
        step = self.version
        if not self.schedule.ready(step):
            return
        for place, stage in self.schedule.stages(step).items():
            if stage is Stage.READY:
                version = self.schedule.version(step, place)
                assert version is not None
                assert step - self.staleness <= version <= step
                self.trained[step, place] += 1
            else:
                assert (step, place) in self.dropped
        self.schedule.trained(step)
        self.version, self.published = step + 1, False

    @precondition(lambda self: self.version > 0)
    @rule(back=st.integers(0, 2))
    def the_learner_is_lost(self, back: int) -> None:
        step = max(self.version - back, 0)
        self.schedule.fall_back(step)
        self.version, self.published, self.jobs = step, False, []
        self.unscored = []
        for group in [group for group in self.trained if group[0] >= step]:
            del self.trained[group]
        self.follow()

    @precondition(lambda self: not self.jobs)
    @rule(count=st.integers(1, 3))
    def a_job_begins(self, count: int) -> None:
        self.jobs = ["job"]
        self.schedule.add_job("job", count, 2)
        self.follow()

    @precondition(lambda self: bool(self.jobs))
    @rule()
    def a_job_ends(self) -> None:
        done = {Stage.SCORING, Stage.DROPPED}
        if done.issuperset(self.schedule.stages("job").values()):
            self.schedule.end_job("job")
            self.jobs = []

    @invariant()
    def no_group_is_trained_twice(self) -> None:
        if hasattr(self, "trained"):
            assert all(count == 1 for count in self.trained.values())

    def teardown(self) -> None:
        """From wherever it stands, the run ends once nothing else fails."""
        if not hasattr(self, "schedule"):
            return
        self.a_worker_comes()
        for _ in range(10_000):
            if self.version == self.last:
                break
            if not self.published:
                self.publish()
            while self.unscored:
                self.schedule.scored(*self.unscored.pop(), True)
                self.follow()
            if self.asked:
                self.a_worker_answers(random.Random(0))
            self.train()
        assert self.version == self.last
        whole = {(s, p) for s in range(self.last) for p in range(self.count)}
        assert not {g for g in whole if g[0] >= self.last - 1} - self.trained.keys() - self.dropped


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def test_a_worker_goes_on_with_newer_weights_when_those_it_loads_are_lost() -> None:
    """The run needs another learner only if the lost version is the published one."""
    schedule = Schedule(Layout(1, 1), 1, 0, 2, max_staleness=1)
    schedule.worker_up("a")
    schedule.publish(0)
    assert schedule.take_orders() == [Load("a", 0)]
    schedule.publish(1)
    assert not schedule.weights_lost("a", 0)
    assert schedule.take_orders() == [Load("a", 1)]
    assert schedule.weights_lost("a", 1)


def test_a_step_without_work_is_not_trained() -> None:
    """``trained`` is for steps whose groups are all there."""
    schedule = Schedule(Layout(1, 1), 1, 0, 1)
    schedule.publish(0)
    with pytest.raises(AssertionError):
        schedule.trained(0)
