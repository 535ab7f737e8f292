"""The private cluster is private, and whoever is waited for has a name and a deadline."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
import ray

from learner.group import LearnerGroup
from learner.settings import LearnerSettings
from orchestrator.config import RunConfig, load_config
from orchestrator.pools import RewardPools, RolloutPool
from orchestrator.preflight import check_inputs, model_folder
from orchestrator.waiting import WorkerFailed, wait_all
from rollout.engine import GenerationRequest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    return load_config(ROOT / "configs" / "shapes.yaml", ["rollout.group_size=2"])


def test_a_run_listens_on_loopback_only(config: RunConfig) -> None:
    """No socket of Ray or of a started learner group accepts connections from outside."""
    learner = LearnerGroup(
        LearnerSettings(config.learner, config.algorithm, model_folder(config.model.path), 1)
    )
    learner.start()
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening, "Ray listens somewhere"
    learner.shutdown()
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


def test_pools_keep_the_order_of_requests_and_name_a_dead_worker(config: RunConfig) -> None:
    """Three requests over two workers come back in order, scored; then one worker is killed."""
    inputs = check_inputs(config)
    rollout, rewards = RolloutPool(config, inputs), RewardPools(config.rewards)
    rollout.wait_ready(120)
    rewards.wait_ready(120)
    requests = [GenerationRequest(prompt, (7, 8)) for prompt in inputs.prompts[:3]]
    groups = rollout.generate(requests)
    assert [ray.get(group.ref).prompt for group in groups] == inputs.prompts[:3]
    scored = rewards.score(groups)
    assert [group.prompt for group in scored] == inputs.prompts[:3]
    assert all(len(group.totals) == 2 and None not in group.totals for group in scored)

    ray.kill(rollout.workers[1])
    with pytest.raises(WorkerFailed, match="rollout worker 1 died"):
        rollout.generate(requests)
    ray.kill(rollout.workers[0])
