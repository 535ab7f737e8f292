"""Workers that were up when their host was lost and their places were asked for anew.

A learner that forms its group again lets workers stand back that wait for a place. One that was
idle may be among them, because nobody has noticed yet that it is dead.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray

from orchestrator.workers.placement import ANYWHERE
from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from rollout.engine import GenerationRequest
from tests.started_pools import Started, groups_of, prompt, reward, scores_of, take_event

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_batch_for_a_dead_idle_reward_worker_is_scored_by_the_next(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is tried again, and the loss is counted."""
    _, refs = groups_of([[1, 2], [3, 4]])
    pools = start(reward("Square"))
    pool = pools.pools["light"]
    ray.kill(pool.workers[0])
    monkeypatch.setattr(ANYWHERE, "_stood_back", {pool.names[0]})
    scored = scores_of(pools, refs)
    assert [group.totals for group in scored] == [(1.0, 4.0), (9.0, 16.0)]
    usage = pools.take_usage()["light"]
    assert (usage.restarts, usage.retries) == (1, 1)


def test_an_order_to_a_dead_idle_rollout_worker_is_a_loss(
    start_rollout: Callable[..., RolloutPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule hears of it, and has others do the work. The next process has another name."""
    rollout = start_rollout()
    rollout.wait_ready()
    rollout.take_events()
    ray.kill(rollout.workers[1])
    monkeypatch.setattr(ANYWHERE, "_stood_back", {"rollout worker 1"})
    rollout.sample("rollout worker 1", [GenerationRequest(prompt(0), (1, 2))])
    assert take_event(rollout, WorkerLost).worker == "rollout worker 1"
    assert take_event(rollout, WorkerUp) == WorkerUp("rollout worker 1 (process 2)")
