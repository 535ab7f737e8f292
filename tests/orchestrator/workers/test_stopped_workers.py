"""Workers that are stopped are noticed long before the deadline of their call, which is minutes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from orchestrator.workers.failures import WorkerStopped
from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.stopped_workers import StoppedWorkers, watch_for_stopped_workers
from orchestrator.workers.waiting import wait_all
from policy.types import Prompt
from rollout.engine import GenerationRequest
from tests.started_pools import (
    groups_of,
    reward,
    reward_pools,
    sampled,
    take_event,
    take_scored,
    take_turns,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def watch() -> Iterator[StoppedWorkers]:
    with watch_for_stopped_workers() as started:
        yield started


def test_a_look_that_fails_is_not_the_last_one(
    watch: StoppedWorkers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once, and looking goes on."""
    looks: list[int] = []

    def fails() -> None:
        looks.append(1)
        raise RuntimeError("Ray says something new")

    with caplog.at_level(logging.ERROR, "eg_grpo"):
        monkeypatch.setattr(watch, "look", fails)
        deadline = time.monotonic() + 60
        while len(looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(looks) >= 3
    (record,) = caplog.records
    assert record.message == "looking for stopped workers failed; it is tried again"


def requests(text: str) -> list[GenerationRequest]:
    return [GenerationRequest(Prompt("p:0", text, "color"), (1, 2))]


def test_a_stopped_rollout_worker_is_replaced(
    start_rollout: Callable[..., RolloutPool], watch: StoppedWorkers, tmp_path: Path
) -> None:
    """While it loads, while it samples and while it is idle. Its process ends, another takes its
    place, and the other worker stays."""
    rollout = start_rollout("rollout.restarts=3")
    watch.over(rollout)
    loading = stop(rollout, 1)
    (rollout._loaded[1],) = rollout._load([rollout.workers[1]])  # it has not answered yet
    rollout.wait_ready()
    lost, *up = rollout.take_events()
    assert isinstance(lost, WorkerLost)
    assert lost.worker == "rollout worker 1"
    assert re.fullmatch(
        rf"rollout worker 1 does not answer: process {loading.pid} on \S+ is stopped \(SIGSTOP\);"
        r" its log ends: .*",
        lost.reason,
    ), lost.reason
    assert up == [WorkerUp("rollout worker 0"), WorkerUp("rollout worker 1")]

    rollout.sample("rollout worker 1", requests(str(tmp_path)))
    sampling = stop(rollout, 1)
    lost = take_event(rollout, WorkerLost)
    assert f"process {sampling.pid} on " in lost.reason
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 2)")
    sampled(rollout, "rollout worker 1 (process 2)", requests("go"))

    idle = stop(rollout, 1)
    lost = take_event(rollout, WorkerLost)
    assert f"process {idle.pid} on " in lost.reason
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 3)")
    assert rollout.restarts == 3
    for process in (loading, sampling, idle):
        process.wait(60)  # raises if the process does not end
    rollout.close()


def test_the_batch_of_a_stopped_reward_worker_goes_to_another(
    watch: StoppedWorkers, tmp_path: Path
) -> None:
    """Every score comes, once."""
    gate = tmp_path / "gate"
    gate.mkdir()
    waits = reward("WaitsFor", options={"folder": str(gate), "files": 1}, workers=2, timeout_s=600)
    pools = reward_pools(waits)
    pool = pools.pools["light"]
    watch.over(pool)
    pools.wait_ready()
    groups, refs = groups_of([[10, 20]])
    pools.begin("all", [group.prompt for group in groups], 2)
    pools.add("all", 0, refs[0])
    pool.advance()
    (busy,) = (index for index, state in enumerate(pool.states.values()) if state == "scoring")
    process = psutil.Process(ray.get(pool.running[busy]).pid)
    process.suspend()
    began: list[str] = []

    def noticed() -> bool:
        began.extend(pool.take_failures())
        return bool(began)

    take_turns(pools, noticed)
    assert began[0].startswith(
        f"reward worker light/{busy} does not answer: process {process.pid} "
    )
    (gate / "go on").touch()
    (scored,) = take_scored(pools, 1)
    assert scored.totals == (10.0, 20.0)
    assert (pool.usage.retries, pool.usage.restarts) == (1, 1)
    pools.close()


def test_a_wait_ends_and_names_the_one_that_is_stopped(
    start_rollout: Callable[..., RolloutPool], watch: StoppedWorkers, tmp_path: Path
) -> None:
    """And not the one that is waited for, which may itself wait for the stopped one."""
    pool = start_rollout()
    watch.over(pool)
    pool.wait_ready()
    stopped = stop(pool, 1)
    call = pool.workers[0].wait.remote(str(tmp_path))
    with pytest.raises(WorkerStopped, match=rf"^rollout worker 1 does not .* {stopped.pid} on"):
        wait_all([call], ["rollout worker 0"], 600, pool.stopped_workers)
    stopped.resume()
    (tmp_path / "go on").touch()
    deadline = time.monotonic() + 60
    while pool.stopped_workers():  # it is well again, and nobody has replaced it
        assert time.monotonic() < deadline, "it is still called stopped"
        time.sleep(0.1)
    assert wait_all([call], ["rollout worker 0"], 60, pool.stopped_workers) == ["done"]
    pool.close()


def stop(pool: RolloutPool, index: int) -> psutil.Process:
    """Stop a worker's process once it runs."""
    process = psutil.Process(ray.get(pool.running[index], timeout=300).pid)
    process.suspend()
    return process
