"""Rollout workers that load weights while the learner still publishes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.rollout_events import WeightsLoaded, WorkerLost
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import is_here
from tests.started_pools import take_event

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def answered(rollout: RolloutPool) -> bool:
    """Whether the first worker answers within a deadline; the pool is not asked."""
    deadline = time.monotonic() + 60
    while not is_here(rollout._slots[0].call) and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_here(rollout._slots[0].call)


def test_a_load_counts_from_the_moment_at_which_all_weights_are_there(
    start_rollout: Callable[..., RolloutPool], worker: Callable[[], Any], tmp_path: Path
) -> None:
    """Before it the pool waits for no answer and no deadline, although the worker has loaded all.
    After it the answer is one like any other, and so is the loss of a worker."""
    rollout, learner = start_rollout(), worker()
    rollout.wait_ready()
    weights = PublishedWeights(7, (ray.put("slots"), learner.wait.remote(str(tmp_path))))
    rollout.load("rollout worker 0", weights)
    assert (rollout.calls, rollout.wake_at) == ([], math.inf)
    assert rollout.states["rollout worker 0"] == "loading"
    (tmp_path / "go on").touch()
    assert answered(rollout)
    rollout.bring(weights)
    assert len(rollout.calls) == 1
    assert take_event(rollout, WeightsLoaded).receipt == "version 7: slots done"
    ray.kill(rollout.workers[1])  # first: the weights are here, and a load would be done at once
    with suppress(RayActorError):
        while True:  # until the kill, which goes another way than calls, has come
            ray.get(rollout.workers[1].pid.remote(), timeout=60)
    rollout.load("rollout worker 1", weights)
    assert take_event(rollout, WorkerLost).worker == "rollout worker 1"


def test_a_learner_that_dies_while_it_publishes_costs_no_rollout_worker(
    start_rollout: Callable[..., RolloutPool], worker: Callable[[], Any], tmp_path: Path
) -> None:
    """The load fails and nobody asks why. The same worker loads what the next learner publishes,
    also if it has still to find out that the rest of the last push does not come."""
    rollout, learner = start_rollout(), worker()
    rollout.wait_ready()
    pid = ray.get(rollout.workers[0].pid.remote())
    never = learner.wait.remote(str(tmp_path))
    rollout.load("rollout worker 0", PublishedWeights(7, (ray.put("slots"), never)))
    ray.kill(learner)
    again = PublishedWeights(6, (ray.put("slots"), ray.put("whole")))
    rollout.load("rollout worker 0", again)
    rollout.bring(again)
    assert take_event(rollout, WeightsLoaded).receipt == "version 6: slots whole"
    assert ray.get(rollout.workers[0].pid.remote()) == pid
    assert rollout.restarts == 0
