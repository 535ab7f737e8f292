"""Rollout workers that sleep while the learner has their GPU: on real actors."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray

from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from tests.remote_parts import Worker
from tests.started_pools import take_event, take_turns

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def rollout(start_rollout: Callable[..., RolloutPool]) -> RolloutPool:
    return start_rollout()


def notes(rollout: RolloutPool) -> list[list[str]]:
    return ray.get([worker.notes.remote() for worker in rollout.workers], timeout=60)


def test_workers_are_woken_whatever_happened_meanwhile(rollout: RolloutPool) -> None:
    """After the learner's success; and after its failure when they are told to, which is when its
    processes are gone. A worker that has died does not sleep: it is replaced, and the other one
    sleeps and wakes."""
    with rollout.asleep():
        assert rollout.sleeping
        assert notes(rollout) == [["asleep"]] * 2
    assert notes(rollout) == [["asleep", "awake"]] * 2
    with pytest.raises(ValueError, match="the learner failed"), rollout.asleep():
        raise ValueError("the learner failed")
    assert rollout.sleeping
    assert notes(rollout) == [["asleep", "awake", "asleep"]] * 2
    for _ in range(2):
        rollout.wake()
        assert not rollout.sleeping
    assert notes(rollout) == [["asleep", "awake"] * 2] * 2

    first, second = rollout.workers
    ray.wait([second.die.remote()], timeout=60)
    with rollout.asleep():
        assert ray.get(first.notes.remote(), timeout=60) == [*["asleep", "awake"] * 2, "asleep"]
    lost = take_event(rollout, WorkerLost)
    assert (lost.worker, lost.reason.split(":")[0]) == ("rollout worker 1", "rollout worker 1 died")
    assert ray.get(first.notes.remote(), timeout=60) == ["asleep", "awake"] * 3


def test_no_worker_is_started_while_the_others_sleep(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """One that is lost meanwhile gets its new process afterwards: it would load onto the GPU that
    the learner fills. Until then there is nothing to do, so nobody is woken for it."""
    rollout = start_rollout("rollout.sleep_while_learning=true")
    rollout.wait_ready()
    rollout.take_events()
    with rollout.asleep():
        rollout.discard("rollout worker 1", "it is stopped")
        assert rollout.wake_at > time.monotonic() + 1
        rollout.advance()
        assert rollout.calls == []
    take_event(rollout, WorkerLost)
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 2)")


def started_again(rollout: RolloutPool) -> None:
    """The second worker is replaced, and its new process is up, of which nobody has heard yet."""
    rollout.wait_ready()
    rollout.take_events()
    rollout.discard("rollout worker 1", "it is stopped")
    rollout.advance()
    ray.wait([rollout.running[1]], timeout=60)
    assert rollout.starting
    take_turns(rollout, lambda: not rollout.starting)


def test_a_worker_that_came_up_before_the_others_sleep_is_told_of_afterwards(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """The others wait for it while it starts. It sleeps too, and would be asked to load weights."""
    rollout = start_rollout("rollout.sleep_while_learning=true")
    started_again(rollout)
    with rollout.asleep():
        assert notes(rollout) == [["asleep"]] * 2
        assert [type(event) for event in rollout.take_events()] == [WorkerLost]
        assert rollout.calls == []
    assert rollout.take_events() == [WorkerUp("rollout worker 1 (process 2)")]
    assert notes(rollout) == [["asleep", "awake"]] * 2


def test_a_worker_that_is_lost_before_anybody_heard_of_it_is_not_told_of(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """It came up, slept with the others, and was lost. Its name means no process any more."""
    rollout = start_rollout("rollout.sleep_while_learning=true")
    started_again(rollout)
    with rollout.asleep():
        rollout.discard("rollout worker 1 (process 2)", "it is stopped")
    assert [event.worker for event in rollout.take_events()] == [
        "rollout worker 1", "rollout worker 1 (process 2)"
    ]  # fmt: skip
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 3)")


def test_a_worker_without_a_place_does_not_keep_the_others_awake(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """It is asked for again when they have woken up, with the deadline that it had. It was lost
    once, and not twice."""
    rollout = start_rollout("rollout.sleep_while_learning=true")
    rollout.wait_ready()
    rollout.take_events()
    start, rollout._start_worker = (
        rollout._start_worker,
        lambda name: Worker.options(num_cpus=1000).remote(),
    )
    rollout.discard("rollout worker 1", "its host is gone")
    rollout.advance()
    deadline, look_at = rollout._slots[1].deadline, rollout._look_at["rollout worker 1"]
    assert not rollout.starting
    with rollout.asleep():
        assert rollout.calls == []
        rollout._start_worker = start
        rollout.advance()
        assert rollout.states["rollout worker 1 (process 2)"] == "lost"
    rollout.advance()
    assert rollout._slots[1].deadline == deadline
    assert rollout._look_at["rollout worker 1"] == look_at
    assert take_event(rollout, WorkerLost).worker == "rollout worker 1"
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 3)")
    assert rollout.restarts == 1
