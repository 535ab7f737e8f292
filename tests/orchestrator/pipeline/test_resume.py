"""Runs whose every process is killed at a random moment, and that go on with ``--resume``.

One with a single rank that keeps no trajectories is in ``test_replay.py``, beside the run that it
is compared with.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from benchmarks.chaos.checks import Expected, judged
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.processes import descendants, described, frozen, send
from orchestrator.pipeline.ledger_folder import read_run
from tests.command_line import ONE_REWARD, command_on_test_cluster, train_on_test_cluster
from tests.killed_runs import STEPS, has_the_bits_of, killed_and_resumed
from tests.training_records import kept, of_the_learner, rows, untimed, weights_digest

TINY = (
    f"steps={STEPS} prompts_per_step=3 rollout.group_size=3 rollout.workers=1 rollout.batch_size=6"
    " learner.micro_batch_size=4 learner.learning_rate=1e-3 learner.warmup_steps=0"
    f" data.evaluation={{}} checkpoint.every=1 cluster.object_store_mb=128 {ONE_REWARD}"
).split()
TWO_RANKS = "learner.ranks=2 learner.cpus_per_rank=0.5 learner.zero_stage=2".split()

# Two or three starts of a run: minutes on a busy machine.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("ray_cluster"),
]


def test_a_run_with_two_ranks_that_is_killed_has_the_bits_of_one_that_is_not(
    tmp_path: Path,
) -> None:
    """At ZeRO 2: every file of the last checkpoint, weights and optimizer state alike, and every
    row of metrics but for its times. The run that is not killed keeps the trajectories of all
    steps, and the other one those of one step. These are the last step's, the same file for file,
    prompts included. It also has the checkpoint before, from which a replay makes that step
    again."""
    keep_all = f"trajectories.keep_steps={STEPS}"
    whole = train_on_test_cluster(tmp_path, "whole", *TINY, *TWO_RANKS, keep_all)
    assert len(kept(whole)) == 4 * STEPS  # three groups and the numbers of each step
    struck = killed_and_resumed(tmp_path, *TINY, *TWO_RANKS, "trajectories.keep_steps=1")
    has_the_bits_of(struck, whole)

    last = {name: text for name, text in kept(whole).items() if "step-000004/" in name}
    assert kept(struck) == last
    assert list(last) == [
        f"step-000004/{name}"
        for name in ("group-000.safetensors", "group-001.safetensors", "group-002.safetensors",
                     "step.json")
    ]  # fmt: skip
    command_on_test_cluster("replay", struck)
    replayed = struck.with_name("struck-replay")
    assert weights_digest(replayed, STEPS) == weights_digest(whole, STEPS)
    assert untimed(replayed) == of_the_learner(untimed(whole))[STEPS - 1 :]


def test_a_stale_run_that_is_killed_keeps_its_bound(tmp_path: Path) -> None:
    """At staleness 2 no group is older than two versions at any step, also right after the resume,
    by the rows and by the ledger, and each group is trained exactly once. No trajectory is kept,
    as nobody asked for it.

    Before that, the learner is killed while a batch is sampled beside it, and the run falls back.
    What the rollout worker then says of its batch comes too late: the ledger refuses it."""
    steps = STEPS + 2  # some more, so that there is enough to sample beside the learner
    settings = (*TINY, f"steps={steps}", "max_staleness=2")
    run = killed_and_resumed(tmp_path, *settings, before=loses_the_learner_beside_a_sampler)
    assert kept(run) == {}
    found, view = rows(run), read_run(run)
    assert view is not None
    assert judged(Expected(steps, 3, 2), view, found).problems == []
    # On a busy machine the run may hear of the learner's death so late that it has replaced the
    # sampler first, which it finds stopped.
    stopped = "is stopped (SIGSTOP)" in (run / "run.log").read_text()
    assert stopped or view.counts["late_refused"] >= 1
    for row in found:
        step = row["step"] - 1
        ages = [step - group.weight_version for group in view.groups if group.step == step]
        assert max(ages) <= 2
        assert row["staleness/max"] == max(ages)
        assert row["staleness/mean"] == pytest.approx(sum(ages) / len(ages))


def loses_the_learner_beside_a_sampler(run: Driver) -> None:
    """Kill the learner in an update. The worker that samples meanwhile stands still until the run
    has fallen back."""
    while True:
        assert run.ended() is None, run.lines
        at = {(process.role, process.doing): process.pid for process in descendants()}
        if ("learner", "learning") in at and ("rollout", "sampling") in at:
            learner, sampler = at["learner", "learning"], at["rollout", "sampling"]
            seen = frozen(sampler), described(learner)
            if [process and process.doing for process in seen] == ["sampling", "learning"]:
                break
            send(sampler, signal.SIGCONT)
        time.sleep(0.005)
    send(learner, signal.SIGKILL)
    while not any("goes on from" in line for _, line in run.lines):
        assert run.ended() is None, run.lines
        time.sleep(0.02)
    send(sampler, signal.SIGCONT)
