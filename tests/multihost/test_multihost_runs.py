"""Whole runs on three hosts that a network joins."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger_server import server_binary
from orchestrator.record.run_folder import read_rows
from tests.multihost.hosts import Cluster, wait_for

_LANGUAGE_MODEL = 1_789_824  # bytes of the largest part of the trained weights of shapes/checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

# Groups of 32 are so large that Ray keeps them in the object store of the host that sampled them.
_SMALL = (
    "prompts_per_step=2 rollout.group_size=32 rollout.batch_size=32 learner.micro_batch_size=32"
    " learner.ranks=2 data.evaluation={}"
).split()


def test_a_submitted_job_runs_on_the_hosts_that_its_settings_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A relative root is refused. With an absolute one the job ends well, and its log shows the
    steps, the checkpoint and the report. Rollout workers are on host one, reward workers and
    learner ranks on host two. Weights cross the link to host one once for its two workers. Images
    cross the link to host two once for its three reward workers and two ranks."""
    train = ["eg-grpo", "train", "configs/shapes.yaml", "steps=6", *_SMALL]
    refused, _ = cluster.start_job(*train).communicate(timeout=200)
    assert "root: runs would lie in the job's own copy of the working folder" in refused
    job = cluster.start_job(
        *train,
        f"root={tmp_path}",
        "trajectories.keep_steps=6",
        "rollout.resources={rollout_host: 0.1}",
        "learner.resources={learner_host: 0.1}",
        'rewards=[{name: a, factory: "shapes.rewards:Attributes", workers: 2, cpus_per_worker: 0.5,'
        ' resources: {reward_host: 0.1}}, {name: s, factory: "shapes.rewards:Structure",'
        " cpus_per_worker: 0.5, resources: {reward_host: 0.1}}]",
    )
    run, network = tmp_path / "shapes", cluster.network
    wait_for(
        "the first weights are published",
        lambda: job.poll() is not None or "weight version 0:" in _log(run),
        200,
    )
    before = [network.bytes_to(host) for host in (cluster.one, cluster.two)]
    wait_for("a step is done", lambda: job.poll() is not None or _steps(run), 100)
    on_one, on_two = cluster.one.roles(), cluster.two.roles()
    said, _ = job.communicate(timeout=300)
    to_one, to_two = (
        network.bytes_to(host) - seen
        for host, seen in zip((cluster.one, cluster.two), before, strict=True)
    )
    assert job.returncode == 0, said[-5000:]
    assert "step 6/6" in said
    assert f"checkpoint: {run}/checkpoints/step-6" in said
    assert f"report: {run}/report.html" in said
    assert on_one["RolloutWorker"] == 2
    assert on_one["RewardWorker"] == on_one["LearnerWorker"] == 0
    assert (on_two["RewardWorker"], on_two["LearnerWorker"], on_two["RolloutWorker"]) == (3, 2, 0)
    # After the first weights, six more versions are published, and six steps are sampled.
    assert 0.9 < to_one / (6 * _LANGUAGE_MODEL) < 1.5
    groups = sum(file.stat().st_size for file in run.glob("trajectories/step-*/*.safetensors"))
    assert 0.9 < to_two / groups < 1.5


def test_a_run_heals_from_the_loss_of_a_host_and_of_a_link(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Each of two hosts has one learner rank, and the second one has the ledger's Redis with a
    password. A wrong password is refused with one line. All processes of the first host are killed,
    and Ray is started there again. Then the second host is cut off for 30 s. The run ends well.
    Another host reads the ledger: every group was trained exactly once, by a driver of one epoch.
    """
    run = tmp_path / "shapes"
    train = [
        *("eg-grpo", "train", "configs/shapes.yaml", "steps=8", f"root={tmp_path}", *_SMALL),
        *("learner.resources={rank_of_each_host: 1}", "checkpoint.every=1"),
        f"cluster.address={cluster.address}",
    ]
    place = f"{cluster.two.address}:6400/0"
    cluster.two.start(  # it ends with the host
        str(server_binary()), "--bind", cluster.two.address, "--port", "6400", "--requirepass",
        "right", "--save", "", "--dir", str(tmp_path),
    )  # fmt: skip
    refused = cluster.head.run("env", f"REDIS_URL=redis://:wrong@{place}", *train)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "eg-grpo: REDIS_URL: Redis says that the password is missing or wrong"
    )
    known = ("env", f"REDIS_URL=redis://:right@{place}")
    driver = cluster.head.start(*known, *train)

    def reaches(step: int) -> None:
        wait_for(f"step {step}", lambda: driver.poll() is not None or _steps(run) >= step, 200)
        assert driver.poll() is None, driver.communicate()[0][-5000:]

    reaches(2)
    assert cluster.one.roles()["LearnerWorker"] == cluster.two.roles()["LearnerWorker"] == 1
    cluster.one.end_processes()
    cluster.join(cluster.one)
    reaches(5)
    cluster.network.cut(cluster.two)
    time.sleep(30)
    cluster.network.mend(cluster.two)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said[-5000:]
    checked = cluster.one.run(*known, sys.executable, "-c", _CHECK, str(run), "8", "2")
    assert checked.stdout == "epoch 1, problems: []\n", checked.stdout + checked.stderr


_CHECK = """
import sys
import time
from pathlib import Path
from benchmarks.chaos.checks import Expected, judged
from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.record.run_folder import read_rows
run, steps, groups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
view = read_run(run)
verdict = judged(Expected(steps, groups, 0), view, read_rows(run / "metrics.jsonl"))
print(f"epoch {view.epoch}, problems: {verdict.problems}")
"""


def _steps(run: Path) -> int:
    """The number of steps that are done."""
    file = run / "metrics.jsonl"
    return len(read_rows(file)) if file.exists() else 0


def _log(run: Path) -> str:
    file = run / "run.log"
    return file.read_text() if file.exists() else ""
