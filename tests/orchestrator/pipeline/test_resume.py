"""A run whose every process is killed at a random moment, and that goes on with ``--resume``."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.checks import Expected, judged
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.processes import descendants, described, frozen, send
from learner.step_checkpoint import verified_manifest
from orchestrator.record.own_checkpoints import OwnCheckpoints
from tests.command_line import ONE_REWARD, command_on_test_cluster, train_on_test_cluster
from tests.training_records import kept, of_the_learner, untimed, weights_digest

STEPS = 5
TINY = (
    f"steps={STEPS} prompts_per_step=3 rollout.group_size=3 rollout.workers=1 rollout.batch_size=6"
    " learner.micro_batch_size=4 learner.learning_rate=1e-3 learner.warmup_steps=0"
    f" data.evaluation={{}} checkpoint.every=1 cluster.object_store_mb=128 {ONE_REWARD}"
).split()
TWO_RANKS = "learner.ranks=2 learner.cpus_per_rank=0.5 learner.zero_stage=2".split()

# Two or three starts of a run: minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1800)]


Begin = Callable[..., Driver]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins the run ``name`` with more settings. Whatever still runs after the test is killed."""
    drivers: list[Driver] = []
    # What a killed Ray leaves behind is in a folder with a short path, as Ray keeps sockets in it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:

        def begin(name: str, *settings: str) -> Driver:
            drivers.append(Driver(tmp_path, name, [*TINY, *settings], Path(scratch)))
            drivers[-1].start()
            return drivers[-1]

        yield begin
        for driver in drivers:
            if driver.ended() is None:
                kill_tree(psutil.Process(driver.pid))


def test_a_run_that_is_killed_ends_with_the_bits_of_the_run_that_is_not(
    ray_cluster: None, begin: Begin, tmp_path: Path
) -> None:
    """Two ranks, at ZeRO 2: every file of the last checkpoint, weights and optimizer state alike,
    and every row of metrics but for its times are equal to the bit. The run that is not killed
    keeps the trajectories of all steps, and the other one those of one step. These are the last
    step's, the same file for file. It also has the checkpoint before, from which a replay makes
    that step again."""
    keep_all = f"trajectories.keep_steps={STEPS}"
    whole = train_on_test_cluster(tmp_path, "whole", *TINY, *TWO_RANKS, keep_all)
    assert len(kept(whole)) == 4 * STEPS  # three groups and the numbers of each step
    struck = begin("struck", *TWO_RANKS, "trajectories.keep_steps=1")
    is_killed_and_goes_on(struck)
    assert untimed(struck.folder) == untimed(whole)
    assert [row["step"] for row in struck.rows()] == [1, 2, 3, 4, 5]
    ours, theirs = (
        verified_manifest(run / "checkpoints" / f"step-{STEPS}") for run in (struck.folder, whole)
    )
    assert any(name.startswith("state/") for name in ours.files)
    assert ours == theirs

    last = {name: text for name, text in kept(whole).items() if "step-000005/" in name}
    assert kept(struck.folder) == last
    assert list(last) == [
        f"step-000005/{name}"
        for name in ("group-000.safetensors", "group-001.safetensors", "group-002.safetensors",
                     "step.json")
    ]  # fmt: skip
    command_on_test_cluster("replay", struck.folder)
    replayed = struck.folder.with_name("struck-replay")
    assert weights_digest(replayed, STEPS) == weights_digest(whole, STEPS)
    assert untimed(replayed) == of_the_learner(untimed(whole))[STEPS - 1 :]


def test_a_stale_run_that_is_killed_keeps_its_bound(begin: Begin) -> None:
    """At staleness 2 no group is older than two versions at any step, also right after the resume,
    by the rows and by the ledger, and each group is trained exactly once. No trajectory is kept,
    as nobody asked for it.

    Before that, the learner is killed while a batch is sampled beside it, and the run falls back.
    What the rollout worker then says of its batch comes too late: the ledger refuses it."""
    run = begin("struck", "max_staleness=2")
    loses_the_learner_while_a_batch_is_sampled(run)
    is_killed_and_goes_on(run)
    assert kept(run.folder) == {}
    rows, view = run.rows(), run.view()
    assert view is not None
    assert judged(Expected(STEPS, 3, 2), view, rows).problems == []
    assert view.counts["late_refused"] >= 1
    for row in rows:
        step = row["step"] - 1
        ages = [step - group.weight_version for group in view.groups if group.step == step]
        assert max(ages) <= 2
        assert row["staleness/max"] == max(ages)
        assert row["staleness/mean"] == pytest.approx(sum(ages) / len(ages))


def loses_the_learner_while_a_batch_is_sampled(run: Driver) -> None:
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


def is_killed_and_goes_on(run: Driver) -> None:
    """Kill every process of the run at a random moment, and let it go on to its end."""
    # Step 1 is in a checkpoint by the time that step 2 has its row, and the run is not at its end.
    step, delay_s = random.randint(2, STEPS - 2), random.uniform(0, 1)
    print(f"killed {delay_s:.3f} s after step {step}")  # pytest shows it if the test fails
    while run.steps_done() < step:
        assert run.ended() is None, run.lines
        time.sleep(0.05)
    time.sleep(delay_s)
    kill_tree(psutil.Process(run.pid))
    run.wait_ended(10)
    assert OwnCheckpoints(run.folder).last() is not None
    run.start()
    ends(run)


def ends(run: Driver) -> None:
    """The run ends by itself, without an error."""
    assert run.wait_ended(600) == 0, run.lines


def kill_tree(root: psutil.Process) -> None:
    """SIGKILL a process and all that it has started.

    All are frozen first. So none can start another one or see another one die, and their order does
    not matter.
    """
    frozen: list[psutil.Process] = []
    while new := [p for p in (root, *root.children(recursive=True)) if p not in frozen]:
        for process in new:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        frozen += new
    assert {"raylet", "gcs_server"} <= {process.name() for process in frozen}
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(frozen, timeout=60)
    assert alive == []
