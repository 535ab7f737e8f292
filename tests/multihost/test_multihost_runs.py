"""Whole runs on three hosts that a network joins, by the commands of docs/cluster.md."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger_server import server_binary
from orchestrator.record.run_folder import read_rows
from tests.multihost.by_hand import DOCTOR, SCALE, STATUS, SUBMIT, Cluster
from tests.multihost.hosts import wait_for
from tests.training_records import of_the_learner, untimed, weights_digest

STEPS = 12
_LANGUAGE_MODEL = 1_789_824  # bytes of the largest part of the trained weights of shapes/checkpoint
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]


def settings(rollout: int, rewards_on: str, *more: str) -> str:
    """Both runs have these, and so the same numbers.

    Groups of 32 are so large that Ray keeps them in the object store of the host that sampled them.
    """
    where = f"cpus_per_worker: 0.5, resources: {rewards_on}"
    return shlex.join(
        [
            *(f"steps={STEPS}", "prompts_per_step=2", "data.evaluation={}"),
            *(f"rollout.workers={rollout}", "rollout.max_workers=2"),
            *("rollout.group_size=32", "rollout.batch_size=32"),
            *("learner.micro_batch_size=32", "learner.ranks=2"),
            'rewards=[{name: attributes, factory: "shapes.rewards:Attributes", workers: 2, '
            f'{where}}}, {{name: structure, factory: "shapes.rewards:Structure", {where}}}]',
            *more,
        ]
    )


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted as the page says, and what was seen of it from outside."""

    folder: Path
    checked: str  # what doctor printed
    refused: str  # what a job with a relative root printed
    said: str  # what the job printed
    on_one: Counter[str]  # actors of each class while it ran
    on_two: Counter[str]
    to_one: int  # bytes over the link after the first weights were published
    to_two: int


@pytest.fixture(scope="module")
def submitted(cluster: Cluster) -> Submitted:
    """The run ``first`` of the page; nothing disturbs it."""
    network, run = cluster.network, cluster.shared / "runs" / "first"
    relative = SUBMIT.replace("root=/shared/runs", f"steps={STEPS}")
    assert relative != SUBMIT
    without_root = cluster.begun(cluster.head, relative)
    checked = cluster.typed(cluster.one, DOCTOR)
    refused, _ = without_root.communicate(timeout=200)
    here = settings(
        2,
        "{reward_host: 0.1}",
        f"trajectories.keep_steps={STEPS}",
        "rollout.resources={rollout_host: 0.1}",
        "learner.resources={learner_host: 0.1}",
    )
    job = cluster.begun(cluster.one, f"{SUBMIT} {here}")
    wait_for(
        "the first weights are published",
        lambda: job.poll() is not None or "weight version 0:" in _log(run),
        200,
    )
    before = [network.bytes_to(host) for host in (cluster.one, cluster.two)]
    wait_for("a step is done", lambda: job.poll() is not None or _steps(run), 100)
    on_one, on_two = cluster.one.roles(), cluster.two.roles()
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said[-5000:]
    to_one, to_two = (
        network.bytes_to(host) - seen
        for host, seen in zip((cluster.one, cluster.two), before, strict=True)
    )
    return Submitted(run, checked, refused, said, on_one, on_two, to_one, to_two)


def test_three_hosts_by_hand(cluster: Cluster, submitted: Submitted) -> None:
    """The commands of the page, typed in its order: the token, Ray on the head and on two others,
    the check of the hosts, the job and its status. The run ends with what the page says, and its
    folder is where the page says. A relative root is refused."""
    assert (cluster.shared / "ray-token").stat().st_mode & 0o777 == 0o600
    assert "FAIL" not in submitted.checked
    assert "root: runs would lie in the job's own copy of the working folder" in submitted.refused
    run, said = submitted.folder, submitted.said
    assert f"{run} has no run yet: it begins" in said
    assert f"step {STEPS}/{STEPS}" in said
    assert f"checkpoint: {run}/checkpoints/step-{STEPS}" in said
    assert f"report: {run}/report.html" in said
    assert f"steps    {STEPS} of {STEPS} committed" in cluster.typed(cluster.two, STATUS)
    # What Kubernetes' probes ask needs no token.
    health = cluster.typed(
        cluster.one, f"python -c {shlex.quote(_ASK)} http://10.0.0.1:52365/api/healthz"
    )
    assert health == "raylet: success\ngcs: success\n"


def test_workers_are_where_the_settings_say_and_links_carry_each_thing_once(
    submitted: Submitted,
) -> None:
    """Rollout workers are on host one, reward workers and learner ranks on host two. Weights cross
    the link to host one once for its two workers. Images cross the link to host two once for its
    three reward workers and two ranks."""
    on_one, on_two = submitted.on_one, submitted.on_two
    assert on_one["RolloutWorker"] == 2
    assert on_one["RewardWorker"] == on_one["LearnerWorker"] == 0
    assert (on_two["RewardWorker"], on_two["LearnerWorker"], on_two["RolloutWorker"]) == (3, 2, 0)
    # After the first weights, a version is published with each step, and each step is sampled.
    assert 0.9 < submitted.to_one / (STEPS * _LANGUAGE_MODEL) < 1.5
    kept = submitted.folder.glob("trajectories/step-*/*.safetensors")
    assert 0.9 < submitted.to_two / sum(file.stat().st_size for file in kept) < 1.5


def test_a_run_heals_from_whatever_happens_to_its_hosts(
    cluster: Cluster, submitted: Submitted
) -> None:
    """Each of two hosts has one learner rank. The driver is on the second one, the ledger's Redis
    with a password on the head; a wrong password is refused with one line.

    While the link of the second host is slow, the first one asks for more workers of one role and
    fewer of another, by the page's command. All processes of the first host are killed, and Ray is
    started there again. Then the second host is cut off for 30 s; meanwhile a second driver is
    refused by the lock. Then the second host is cut off again, the lock is deleted, and a second
    driver goes on with the run on the head and the first host. When the link is back, the first
    driver ends with one line.

    Every group was trained exactly once, under two epochs, and the weights and numbers are to the
    bit those of the run that nothing disturbed.
    """
    head, one, two, network = cluster.head, cluster.one, cluster.two, cluster.network
    run, place = cluster.shared / "runs" / "second", f"{head.address}:6400/0"
    train = "eg-grpo train configs/shapes.yaml --resume root=/shared/runs name=second"
    address = f"cluster.address={head.address}:6379"
    ranks = "learner.resources={rank_of_each_host: 1}"
    train_on_both = f"{train} {settings(1, '{}', ranks, address, 'checkpoint.every=1')}"
    on_one = ("learner.resources={rollout_host: 0.1}", "rollout.resources={rollout_host: 0.1}")
    train_on_one = f"{train} {settings(1, '{rollout_host: 0.1}', *on_one, address)}"
    head.start(  # it ends with the host
        str(server_binary()), "--bind", head.address, "--port", "6400", "--requirepass", "right",
        "--save", "", "--dir", str(cluster.shared),
    )  # fmt: skip
    refused = cluster.ran(one, f"export REDIS_URL=redis://:wrong@{place}", train_on_both)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "eg-grpo: REDIS_URL: Redis says that the password is missing or wrong"
    )
    known = f"export REDIS_URL=redis://:right@{place}"
    older = cluster.begun(two, known, train_on_both)

    def one_more_step() -> None:
        step = _steps(run) + 1
        wait_for(f"step {step}", lambda: older.poll() is not None or _steps(run) >= step, 200)
        assert older.poll() is None, older.communicate()[0][-5000:]

    one_more_step()
    assert one.roles()["LearnerWorker"] == two.roles()["LearnerWorker"] == 1
    network.slow(two, megabits=4)
    scaled = cluster.typed(one, known, SCALE.replace("/first", "/second"))
    assert re.fullmatch(r"done after \d+ s: rollout 1 -> 2, attributes 2 -> 1\n", scaled)
    assert network.held_back(two) > 100
    network.mend(two)

    one.end_processes()
    cluster.join(one)
    one_more_step()

    network.cut(two)
    mends = time.monotonic() + 30
    refused = cluster.ran(head, known, train_on_one)
    assert (refused.returncode, "is in use by process" in refused.stderr) == (2, True), refused
    assert "on host two; wait until it ends" in refused.stderr
    time.sleep(max(0.0, mends - time.monotonic()))
    network.mend(two)
    one_more_step()

    network.cut(two)
    assert older.poll() is None
    (run / ".lock").unlink()
    newer = cluster.begun(head, known, train_on_one)
    wait_for("the next epoch", lambda: newer.poll() is not None or _epoch(run) == 2, 100)
    network.mend(two)
    said, _ = older.communicate(timeout=200)
    assert re.fullmatch(
        r"eg-grpo: driver epoch 2 took over run [0-9a-f]+; this process \(epoch 1\) may write"
        r" nothing any more",
        said.splitlines()[-1],
    ), said[-5000:]
    assert older.returncode == 1
    said, _ = newer.communicate(timeout=300)
    assert newer.returncode == 0, said[-5000:]

    check = f"python -c {shlex.quote(_CHECK)} /shared/runs/second {STEPS} 2"
    checked = cluster.ran(one, known, check)
    assert checked.stdout == "epoch 2, problems: []\n", checked.stdout + checked.stderr
    assert of_the_learner(untimed(run)) == of_the_learner(untimed(submitted.folder))
    assert weights_digest(run, STEPS) == weights_digest(submitted.folder, STEPS)


_CHECK = """
import sys
from pathlib import Path
from benchmarks.chaos.checks import Expected, judged
from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.record.run_folder import read_rows
run, steps, groups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
view = read_run(run)
verdict = judged(Expected(steps, groups, 0), view, read_rows(run / "metrics.jsonl"))
print(f"epoch {view.epoch}, problems: {verdict.problems}")
"""


def _epoch(run: Path) -> int:
    """The last epoch that a driver of the run has taken."""
    return int(json.loads((run / "ledger.json").read_text())["taken"])


def _steps(run: Path) -> int:
    """The number of steps that are done."""
    file = run / "metrics.jsonl"
    return len(read_rows(file)) if file.exists() else 0


def _log(run: Path) -> str:
    file = run / "run.log"
    return file.read_text() if file.exists() else ""
