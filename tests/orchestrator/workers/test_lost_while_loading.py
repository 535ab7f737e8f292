"""Rollout workers that are lost while a run opens: each is replaced once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import psutil
import pytest
import ray

from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import WorkerDied, WorkerLate
from policy.types import Prompt
from rollout.engine import GenerationRequest
from tests.started_pools import sampled

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


REQUESTS = [GenerationRequest(Prompt("p:0", "go", "color"), (1, 2))]


def test_a_worker_that_dies_while_it_loads_is_replaced_once(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """The pool comes up under the same names, and says which worker it has lost. A second death of
    a worker ends the start with its cause, and so does the first if nothing is to be replaced."""
    rollout = start_rollout()
    ray.kill(rollout.workers[1])
    rollout.wait_ready()
    lost, *up = rollout.take_events()
    assert isinstance(lost, WorkerLost)
    assert lost.reason.startswith("rollout worker 1 died: ")
    assert up == [WorkerUp("rollout worker 0"), WorkerUp("rollout worker 1")]
    assert rollout.restarts == 1
    sampled(rollout, "rollout worker 1", REQUESTS)
    rollout.close()

    rollout = start_rollout()
    ray.kill(rollout.workers[1])
    ray.wait(rollout._loaded[1:], timeout=60)
    assert rollout.replace_dead()
    ray.kill(rollout.workers[1])
    with pytest.raises(WorkerDied, match=r"^rollout worker 1 died: "):
        rollout.wait_ready()
    rollout.close()

    rollout = start_rollout("rollout.restarts=0")
    ray.kill(rollout.workers[0])
    with pytest.raises(WorkerDied, match=r"^rollout worker 0 died: "):
        rollout.wait_ready()
    rollout.close()


def test_a_worker_that_is_frozen_while_it_loads_is_replaced_once(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """It is killed at its deadline, and the pool comes up with another process. A second time, or
    with nothing to be replaced, the start ends and says that the process is stopped."""
    rollout = start_rollout("cluster.start_timeout_s=3")
    frozen = psutil.Process(ray.get(rollout.workers[1].__ray_call__.remote(lambda _: os.getpid())))
    frozen.suspend()
    (rollout._loaded[1],) = rollout._load([rollout.workers[1]])  # it has not answered yet
    rollout.wait_ready()
    lost, *up = rollout.take_events()
    assert isinstance(lost, WorkerLost)
    silent = rf"^rollout worker 1 did not answer within 3 s: process {frozen.pid} on .* is stopped"
    assert re.match(silent, lost.reason), lost.reason
    assert up == [WorkerUp("rollout worker 0"), WorkerUp("rollout worker 1")]
    assert rollout.restarts == 1
    frozen.wait(60)  # raises if the process does not end
    sampled(rollout, "rollout worker 1", REQUESTS)

    again = ray.get(rollout.workers[1].__ray_call__.remote(lambda _: os.getpid()))
    psutil.Process(again).suspend()
    (rollout._loaded[1],) = rollout._load([rollout.workers[1]])
    with pytest.raises(
        WorkerLate, match=rf"^rollout worker 1 .*: process {again} on .* is stopped"
    ):
        rollout.wait_ready()
    rollout.close()
