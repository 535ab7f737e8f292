"""Whoever fails first is heard of first, and nobody is left behind: on real actors."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from orchestrator.pipeline.learner_calls import learner_call
from orchestrator.workers import waiting, worker_pool
from orchestrator.workers.failures import (
    ObjectLost,
    WorkerDied,
    WorkerFailed,
    WorkerLate,
    WorkerNotStarted,
    WorkerNotWritten,
)
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.rollout_events import BatchSampled, WorkerLeaves, WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import failure_of, wait_all
from policy.disk import NotWritten
from policy.errors import UserError
from policy.types import Prompt
from rollout.engine import GenerationRequest
from tests.remote_parts import Worker
from tests.started_pools import reward, reward_pools, sampled, take_event, take_turns

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def gone(pids: list[int]) -> bool:
    """Whether all these processes end, within a deadline."""
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_dead_worker_is_heard_of_while_the_first_still_works(
    worker: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first answers only after the wait is over. Of two that have failed, the dead one is
    raised and the other is in the log."""
    first, second, third = worker(), worker(), worker()
    refs = [first.wait.remote(str(tmp_path)), second.die.remote(), third.fail.remote("no\nroom")]
    ray.wait(refs[1:], num_returns=2, timeout=60)
    began = time.monotonic()
    with (
        caplog.at_level(logging.WARNING, "eg_grpo"),
        pytest.raises(WorkerDied, match=r"^rollout worker 1 died: "),
    ):
        wait_all(refs, ["rollout worker 0", "rollout worker 1", "rollout worker 2"], 60)
    assert time.monotonic() - began < 5
    assert caplog.messages == ["rollout worker 2 failed: ValueError: no room"]
    (tmp_path / "go on").touch()
    assert wait_all(refs[:1], ["rollout worker 0"], 60) == ["done"]


def test_a_dead_rank_is_named_although_its_peer_fails_first(
    worker: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer's failure has arrived before the other rank dies, which it does within the grace."""
    first, second = worker(), worker()
    second.wait.remote(str(tmp_path))
    refs = [first.fail.remote("connection closed by peer"), second.die.remote()]
    ray.wait(refs[:1], timeout=60)
    Timer(0.5, (tmp_path / "die now").touch).start()
    with (
        caplog.at_level(logging.WARNING, "eg_grpo"),
        pytest.raises(WorkerDied, match=r"^learner rank 1 died: "),
    ):
        wait_all(refs, ["learner rank 0", "learner rank 1"], 60)
    assert caplog.messages == ["learner rank 0 failed: ValueError: connection closed by peer"]


def test_a_failure_is_raised_when_nobody_has_died_within_the_grace(
    worker: Callable[[], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two that raise, the first to do so is named and the other is in the log. The third is
    silent, and nobody waits for it until the deadline."""
    monkeypatch.setattr(waiting, "_DEATH_GRACE_S", 3.0)
    gate, never = tmp_path / "gate", tmp_path / "never"
    gate.mkdir()
    never.mkdir()
    first, second, third = worker(), worker(), worker()
    first.wait.remote(str(gate))
    refs = [
        first.fail.remote("second"),
        second.fail.remote("first"),
        third.wait.remote(str(never)),
    ]
    ray.wait(refs[1:2], timeout=60)
    Timer(0.2, (gate / "fail now").touch).start()
    with (
        caplog.at_level(logging.WARNING, "eg_grpo"),
        pytest.raises(WorkerFailed, match=r"^b failed: ValueError: first$"),
    ):
        wait_all(refs, ["a", "b", "c"], 60)
    (never / "at last").touch()
    assert caplog.messages == ["a failed: ValueError: second"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeEnvSetupError(
                "Traceback (most recent call last):\n  File ...\n"
                "ERROR: No matching distribution found for no-such-package"
            ),
            "hps/1 was not started: its runtime_env cannot be prepared:"
            " ERROR: No matching distribution found for no-such-package",
        ),
        (
            ActorUnschedulableError("no node"),
            "the answer of hps/1 is lost: ActorUnschedulableError: The actor is not schedulable:"
            " no node",
        ),
        (
            ActorUnavailableError("RpcError: RPC error:\nSocket closed rpc_code: 14", b"0" * 16),
            "hps/1 died: the connection to its process is lost",
        ),
        (
            OutOfMemoryError("node of\n8 GiB"),
            "the answer of hps/1 is lost: OutOfMemoryError: node of 8 GiB",
        ),
        (
            ObjectLostError("ab", None, ""),
            "the answer of hps/1 is lost: ObjectLostError: Failed to retrieve object ab.",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ray_loses_is_said_in_one_line_with_the_name(error: RayError, said: str) -> None:
    """Neither a worker's own exception nor its death, and no traceback for the user either. A lost
    object has a type of its own, because the worker may be well, and so has a worker whose packages
    cannot be prepared, because the next one would fail as well."""
    own_types = {ObjectLostError: ObjectLost, RuntimeEnvSetupError: WorkerNotStarted}
    failure = failure_of("hps/1", error)
    assert type(failure) is own_types.get(type(error), WorkerDied)
    assert str(failure).startswith(said)
    assert "\n" not in str(failure)


def test_a_worker_that_cannot_write_is_no_broken_worker() -> None:
    """The failure names the worker, and whoever replaces workers sees that this does not help."""
    error = RayTaskError("save", "traceback", NotWritten("/run/x cannot be written: disk full"))
    failure = failure_of("learner rank 0", error)
    assert isinstance(failure, WorkerFailed)
    assert isinstance(failure, NotWritten)
    assert str(failure) == (
        "learner rank 0 failed: NotWritten: /run/x cannot be written: disk full"
    )

    def save() -> None:
        raise failure

    call = learner_call(save, "checkpoint")
    call.wait(60)
    with pytest.raises(WorkerNotWritten):  # and not LearnerLost, after which the run goes on
        call.result()


def test_all_that_are_silent_are_named(worker: Callable[[], Any], tmp_path: Path) -> None:
    """Those that answered are not; answers come in order of the workers, not of time."""
    first, second, third = worker(), worker(), worker()
    refs = [first.wait.remote(str(tmp_path)), second.pid.remote(), third.wait.remote(str(tmp_path))]
    ray.wait(refs[1:2], timeout=60)
    with pytest.raises(WorkerLate, match=r"^a, c did not answer within 0\.5 s$"):
        wait_all(refs, ["a", "b", "c"], 0.5)
    (tmp_path / "go on").touch()
    assert wait_all(refs, ["a", "b", "c"], 60)[::2] == ["done", "done"]


def test_a_reward_that_cannot_be_built_is_heard_of_while_another_is_being_built(
    tmp_path: Path,
) -> None:
    """Its pool is not the first; the first would take until the deadline."""
    slow = reward("SlowToBuild", "slow", options={"folder": str(tmp_path)})
    wrong = reward("Busy", "wrong", options={"patience": 1})
    pools = reward_pools(slow, wrong, start_timeout_s=200)
    try:
        with pytest.raises(UserError, match=r"^reward 'wrong': options do not fit "):
            pools.wait_ready()
    finally:
        pools.close()


def test_what_a_worker_waited_for_in_vain_is_its_failure(worker: Callable[[], Any]) -> None:
    """Ray gives its error the type of a wait that is over here; it is no silence."""
    with pytest.raises(WorkerFailed, match=r"^rollout worker 0 failed: GetTimeoutError"):
        wait_all([worker().wait_in_vain.remote()], ["rollout worker 0"], 60)


@pytest.fixture
def rollout(start_rollout: Callable[..., RolloutPool]) -> RolloutPool:
    return start_rollout()


def requests(text: str) -> list[GenerationRequest]:
    """Three requests; the text tells the worker what to do."""
    return [GenerationRequest(Prompt(f"p:{index}", text, "color"), (1, 2)) for index in range(3)]


def test_workers_join_and_leave_while_the_pool_works(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """From two to four and to one. A name is never used again. The newest leave first; one that
    samples is told of and stays until it is ended, and its groups come."""
    rollout = start_rollout()
    rollout.wait_ready()
    rollout.take_events()
    rollout.resize(4)
    assert (rollout.size, rollout.joined, rollout.settled) == (4, 2, False)
    up = {take_event(rollout, WorkerUp).worker, *(e.worker for e in rollout.take_events())}
    while len(up) < 2:
        up |= {take_event(rollout, WorkerUp).worker}
    assert up == {"rollout worker 2", "rollout worker 3"}
    assert rollout.joined == 2  # they have no weights
    weights = PublishedWeights(0, refs=None)
    for name in sorted(up):
        rollout.load(name, weights)
    assert (rollout.joined, rollout.settled) == (4, True)
    rollout.sample("rollout worker 3", requests("go"))
    rollout.take_events()
    rollout.resize(1)
    assert rollout.take_events() == [
        WorkerLeaves(f"rollout worker {number}") for number in (3, 2, 1)
    ]
    for number in (2, 1):
        rollout.end(f"rollout worker {number}")
    assert not rollout.settled
    assert take_event(rollout, BatchSampled).worker == "rollout worker 3"
    rollout.end("rollout worker 3")
    assert (list(rollout.states), rollout.settled) == (["rollout worker 0"], True)
    rollout.resize(2)
    assert take_event(rollout, WorkerUp).worker == "rollout worker 4"
    assert rollout.restarts == 0


def test_a_worker_that_dies_while_it_joins_or_leaves_is_not_replaced(
    start_rollout: Callable[..., RolloutPool], worker: Callable[[], Any]
) -> None:
    """The pool says why the one that joins did not start, and the run goes on. What the one that
    leaves was sampling is lost, and is reported. A worker that is lost leaves before one that
    works."""
    rollout = start_rollout("rollout.workers=3")
    rollout.wait_ready()
    rollout.take_events()
    rollout.resize(4)
    ray.kill(rollout.workers[3])
    assert take_event(rollout, WorkerLost).worker == "rollout worker 3"
    (reason,) = rollout.take_failed_starts()
    assert reason.startswith("rollout worker 3 died")
    assert (rollout.size, rollout.settled) == (3, True)

    rollout.sample("rollout worker 2", requests("die"))
    rollout.resize(2)
    assert take_event(rollout, WorkerLost).worker == "rollout worker 2"
    assert list(rollout.states) == ["rollout worker 0", "rollout worker 1"]
    rollout.discard("rollout worker 0", "its host is gone")
    rollout.resize(1)
    assert list(rollout.states) == ["rollout worker 1"]


def test_a_dead_worker_is_replaced_and_its_batch_can_go_to_either(rollout: RolloutPool) -> None:
    """It is reported with the cause. The process in its place has a name of its own, and both
    workers sample on."""
    rollout.sample("rollout worker 0", requests("die"))
    lost = take_event(rollout, WorkerLost)
    assert lost.worker == "rollout worker 0"
    assert lost.reason.startswith("rollout worker 0 died: ")
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 0 (process 2)")
    for name in ("rollout worker 1", "rollout worker 0 (process 2)"):
        groups = sampled(rollout, name, requests("go"))
        assert [group.prompt.id for group in groups] == ["p:0", "p:1", "p:2"]
        assert ray.get([group.ref for group in groups]) == [0, 1, 2]
    assert rollout.restarts == 1


def test_a_silent_worker_is_replaced_and_what_it_says_later_is_not_heard(
    start_rollout: Callable[..., RolloutPool], tmp_path: Path
) -> None:
    """Its deadline is that of a batch. Its process ends, although it would have answered."""
    rollout = start_rollout("rollout.timeout_s=0.5")
    (pid,) = ray.get([rollout.workers[1].pid.remote()], timeout=60)
    rollout.sample("rollout worker 1", requests(str(tmp_path)))
    lost = take_event(rollout, WorkerLost)
    assert lost.worker == "rollout worker 1"
    assert lost.reason.startswith(
        f"rollout worker 1 did not answer within 0.5 s: process {pid} on {socket.gethostname()} "
    )
    (tmp_path / "go on").touch()
    assert gone([pid])
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 2)")
    assert (rollout.calls, rollout.take_events()) == ([], [])


def test_an_answer_that_is_read_late_came_in_time(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """This process reads the answer after the deadline, because it waited for something else."""
    rollout = start_rollout("rollout.timeout_s=0.5")
    rollout.sample("rollout worker 0", requests("go"))
    ray.wait(rollout.calls, timeout=60)
    time.sleep(0.6)
    rollout.advance()
    take_event(rollout, BatchSampled)
    assert rollout.restarts == 0


def test_a_crash_loop_ends_with_its_cause_and_a_batch_in_between_breaks_it(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """One loss, a batch, and two losses in a row; the third in a row is one too many."""
    rollout = start_rollout("rollout.restarts=2")

    def killed(worker: str) -> str:
        rollout.sample(worker, requests("die"))
        take_event(rollout, WorkerLost)
        replacement: str = take_event(rollout, WorkerUp).worker
        return replacement

    worker = killed("rollout worker 0")
    sampled(rollout, worker, requests("go"))
    worker = killed(killed(worker))
    rollout.sample(worker, requests("die"))
    with pytest.raises(
        WorkerFailed,
        match=r"^rollout worker 0 \(process 4\) died: .*; it was the last of 3 losses of rollout"
        r" workers in a row without a batch sampled in between$",
    ):
        take_event(rollout, WorkerLost)


def test_workers_that_are_lost_together_are_one_loss(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """A host takes all three of its workers with it, where one loss in a row is allowed. To replace
    workers that are well, because nobody knows what they were asked for, is no loss. The second
    loss of a new process is one too many."""
    rollout = start_rollout("rollout.workers=3", "rollout.restarts=1")
    rollout.wait_ready()
    rollout.take_events()
    for actor in rollout.workers:
        ray.kill(actor)
    for worker in list(rollout.states):
        rollout.sample(worker, requests("go"))

    def replaced() -> list[str]:
        up: list[str] = []

        def all_are_up() -> bool:
            up.extend(e.worker for e in rollout.take_events() if isinstance(e, WorkerUp))
            return len(up) == 3

        take_turns(rollout, all_are_up)
        return up

    for _ in range(2):
        for worker in replaced():
            rollout.discard(worker, "the ledger is lost")
    rollout.sample(replaced()[0], requests("die"))
    with pytest.raises(WorkerFailed, match="it was the last of 2 losses of rollout workers in a"):
        take_event(rollout, WorkerLost)


def test_a_worker_for_which_there_is_no_room_is_told_of_before_its_deadline(
    start_rollout: Callable[..., RolloutPool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The machine of a worker is gone, and no other has room. A warning says what is missing; at
    the deadline the worker is given up with the same words, and the next one is tried."""
    monkeypatch.setattr(worker_pool, "NO_PROCESS_S", 0.5)
    rollout = start_rollout("rollout.cpus_per_worker=1000", "cluster.start_timeout_s=2")
    rollout._start_worker = lambda name: Worker.options(num_cpus=1000).remote()
    with caplog.at_level(logging.WARNING, "eg_grpo"):
        rollout.sample("rollout worker 0", requests("die"))
        take_event(rollout, WorkerLost)
        lost = take_event(rollout, WorkerLost)
    asks = r"it asks for 1000 CPUs and 0 GPUs, of which [\d.]+ and [\d.]+ are free"
    place = r"was given no place by Ray within"
    warning = rf"^rollout worker 0 {place} 0\.5 s: {asks}; it is given up after 2 s$"
    assert any(re.match(warning, message) for message in caplog.messages), caplog.messages
    given_up = rf"^rollout worker 0 did not answer within 2 s: it {place} 2 s: {asks}$"
    assert re.match(given_up, lost.reason), lost.reason


def test_closed_pools_leave_no_process(rollout: RolloutPool) -> None:
    """Of either kind; a second time there is nothing to do."""
    pools = reward_pools(reward("Brightness"))
    pools.wait_ready()
    actors = pools.pools["light"].workers
    scorers = ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors])
    pids = [*ray.get([worker.pid.remote() for worker in rollout.workers]), *scorers]
    for pool in (pools, rollout, pools, rollout):
        pool.close()
    assert gone(pids)
