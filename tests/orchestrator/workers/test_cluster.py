"""The private cluster is private, and whoever is waited for has a name and a deadline."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import RunConfig, load_config
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.workers.publisher import WeightPublisher
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import wait_all
from rollout.engine import GenerationRequest
from tests.started_pools import loaded, published, sampled, scores_of, take_event

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    return load_config(ROOT / "configs" / "shapes.yaml", ["rollout.group_size=2"])


def test_a_run_listens_on_loopback_only(config: RunConfig) -> None:
    """No socket of Ray or of a started learner group accepts connections from outside."""
    learner = LearnerGroup(config, check_inputs(config))
    learner.wait_ready()
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening, "Ray listens somewhere"
    learner.close()
    loopback = ("127.", "::ffff:127.", "::1")
    assert [address for address in listening if not address.startswith(loopback)] == []


def test_the_cluster_demands_a_token_that_is_not_written_down() -> None:
    """The token is in the environment alone; the home folder stays as it was."""
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_silent_worker_is_named() -> None:
    """The deadline holds, and the message says who did not answer."""

    @ray.remote
    class Sleeper:
        def sleep(self) -> None:
            time.sleep(60)

    sleeper = Sleeper.remote()
    with pytest.raises(WorkerFailed, match=r"reward worker hps/0 did not answer within 0.5 s"):
        wait_all([sleeper.sleep.remote()], ["reward worker hps/0"], timeout_s=0.5)
    ray.kill(sleeper)


def test_a_rollout_worker_that_ray_cannot_place_says_what_it_asks_for(config: RunConfig) -> None:
    """The engine is not built in the constructor, so that this is told from a slow start."""
    greedy = config.rollout.model_copy(update={"cpus_per_worker": 1000.0})
    impatient = config.cluster.model_copy(update={"start_timeout_s": 2.0})
    config = config.model_copy(update={"rollout": greedy, "cluster": impatient})
    rollout = RolloutPool(config, check_inputs(config))
    with pytest.raises(
        WorkerFailed,
        match=r"^rollout worker 0, rollout worker 1 did not answer within 2 s:"
        r" it was given no place by Ray within 2 s:"
        r" it asks for 1000 CPUs and 0 GPUs, of which [\d.]+ and [\d.]+ are free$",
    ):
        rollout.wait_ready()
    rollout.close()


def test_weights_corrupted_on_the_way_stop_the_run(config: RunConfig) -> None:
    """A sound push is proved by every worker; one flipped number in the buckets is noticed."""
    inputs = check_inputs(config)
    rollout = RolloutPool(config, inputs)
    learner = LearnerGroup(config, inputs)
    rollout.wait_ready()
    publisher = WeightPublisher(config.probe_tolerance)
    weights = published(publisher, learner, 0)
    for worker in ("rollout worker 0", "rollout worker 1"):
        assert loaded(rollout, worker, weights, publisher) < config.probe_tolerance
    with pytest.raises(WorkerFailed, match="the learner holds weight version 0, not 1"):
        publisher.publish(learner, weight_version=1)

    assert weights.refs is not None
    slots, first, *others = weights.refs
    broken = [bucket.copy() for bucket in ray.get(first)]
    broken[0][0] += 1
    corrupted = replace(weights, refs=(slots, ray.put(broken), *others))
    with pytest.raises(WorkerFailed, match="rollout worker 0 received other weights"):
        loaded(rollout, "rollout worker 0", corrupted, publisher)
    learner.close()
    rollout.close()


def test_pools_keep_the_order_of_requests_and_a_killed_worker_is_replaced(
    config: RunConfig,
) -> None:
    """Three requests come back in order, scored. Then the other worker is killed: it is reported by
    its name, and the one in its place samples the same requests to the same groups, bit for bit."""
    asleep = config.rollout.model_copy(update={"sleep_while_learning": True})
    config = config.model_copy(update={"rollout": asleep})
    inputs = check_inputs(config)
    rollout = RolloutPool(config, inputs)
    rewards = RewardPools(config)
    rollout.wait_ready()
    rewards.wait_ready()
    with rollout.asleep():
        pass
    requests = [GenerationRequest(prompt, (7, 8)) for prompt in inputs.prompts[:3]]
    groups = sampled(rollout, "rollout worker 0", requests)
    assert [ray.get(group.ref).prompt for group in groups] == inputs.prompts[:3]
    scored = scores_of(rewards, groups)
    assert [group.prompt for group in scored] == inputs.prompts[:3]
    assert all(len(group.totals) == 2 and None not in group.totals for group in scored)

    ray.kill(rollout.workers[1])
    rollout.sample("rollout worker 1", requests)
    lost = take_event(rollout, WorkerLost)
    assert lost.worker == "rollout worker 1"
    assert lost.reason.startswith("rollout worker 1 died: ")
    replacement = take_event(rollout, WorkerUp).worker
    assert replacement == "rollout worker 1 (process 2)"
    repeated = sampled(rollout, replacement, requests)
    for one, other in zip(rollout.fetch(groups), rollout.fetch(repeated), strict=True):
        for first, second in zip(one.trajectories, other.trajectories, strict=True):
            assert np.array_equal(first.cot_ids, second.cot_ids)
            assert np.array_equal(first.cot_logprobs, second.cot_logprobs)
            assert np.array_equal(first.image, second.image)
    rollout.close()
    rewards.close()
