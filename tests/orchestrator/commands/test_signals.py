"""Signals to a run in its own processes: of Slurm and Kubernetes, and of a machine that freezes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from learner.step_checkpoint import verified_manifest
from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.record.own_checkpoints import OwnCheckpoints
from tests.command_line import ONE_REWARD
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
TINY = (
    "steps=3 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    " learner.micro_batch_size=4 data.evaluation={} checkpoint.every=100"
    f" cluster.object_store_mb=128 {ONE_REWARD}"
).split()
# Between two looks at the processes of a run. Without it a test takes a whole core, and Ray, which
# gives its own processes 30 s to start, may not come up beside it.
LOOK_S = 0.05

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]


@contextmanager
def started(root: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of its own session, which is what a Slurm step is to this machine."""
    run = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml", f"root={root}",
         *TINY, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    silence = threading.Timer(900, run.kill)  # a frozen run on a busy machine takes long
    silence.start()
    try:
        yield run
    finally:
        silence.cancel()
        run.kill()
        run.communicate()


def wait_for(run: subprocess.Popen[str], text: str) -> str:
    """What the run says until it has said ``text``."""
    assert run.stderr is not None
    said = ""
    while text not in said:
        line = run.stderr.readline()
        assert line, said
        said += line
    return said


def processes_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The run's and all that it started, whatever their process groups."""
    driver = psutil.Process(run.pid)
    return [driver, *driver.children(recursive=True)]


def name_of(process: psutil.Process) -> str:
    """Nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def left_over(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return alive


def test_sigterm_to_every_process_while_a_checkpoint_is_written_saves_the_step(
    tmp_path: Path,
) -> None:
    """The signal comes when files of a checkpoint are there and it has no name yet. Raylet, GCS and
    workers live on. The run ends after the step that it is in, and its last checkpoint is whole and
    of that step. No process and nothing half-written stays behind.

    Without the shield the workers die of the signal, and the run with them.
    """
    checkpoints = tmp_path / "shapes" / "checkpoints"
    # The moment is short: with many steps, one that is missed is no harm.
    with started(tmp_path, "checkpoint.every=2", "steps=9") as run:
        wait_for(run, "step 1/9")
        processes = processes_of(run)
        names = {name_of(process) for process in processes}
        assert {"raylet", "gcs_server"} <= names
        assert any(name.startswith("ray::Learner") for name in names), names
        while not any(checkpoints.glob(".step-*/*")):
            assert run.poll() is None
            time.sleep(0.002)
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # Ray ends processes that nobody needs
                process.send_signal(signal.SIGTERM)
        out, said = run.communicate(timeout=300)
        assert run.returncode == 130, said
        assert "stopping after this step; send SIGTERM again to stop at once" in said
        assert "Traceback" not in said
        saved = len(rows(tmp_path / "shapes"))
        assert 1 < saved < 9
        last = OwnCheckpoints(tmp_path / "shapes").last()
        assert last == checkpoints / f"step-{saved}"
        assert f"eg-grpo: stopped (the last checkpoint is {last}; go on with: " in said
        assert f"checkpoint: {last}\n" in out
        assert left_over(processes) == []
    verified_manifest(last)
    assert [path for path in checkpoints.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("moment", ["ray.init", "loading"])
def test_sigterm_while_starting_ends_at_once(tmp_path: Path, moment: str) -> None:
    """While Ray starts, with the signal kept from its processes, and while models load: one line,
    and no step is waited for."""
    with started(tmp_path) as run:
        if moment == "loading":
            wait_for(run, "run folder ")
        else:
            ray_is_starting(run)
        processes = processes_of(run)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
        assert run.returncode == 130, said
        begun = (
            f" at once ({tmp_path}/shapes has no checkpoint yet; begin again with:"
            f" eg-grpo train {tmp_path}/shapes/config.yaml --resume)"
        )
        assert said.splitlines()[-1] == f"eg-grpo: stopped{begun if moment == 'loading' else ''}"
        assert "step 1/3" not in said
        assert "Traceback" not in said
        assert left_over(processes) == []
    if moment == "loading":
        assert not (tmp_path / "shapes" / "metrics.jsonl").exists()
    else:
        assert not (tmp_path / "shapes").exists()


def test_workers_that_are_killed_while_the_run_opens_are_replaced(tmp_path: Path) -> None:
    """One of each role, as soon as it is there. The run goes on by itself, and the ledger has
    counted the three."""
    with started(tmp_path, "steps=1") as run:
        for role in ("Rollout", "Reward", "Learner"):
            worker_of(run, role).kill()
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    counts = read_run(tmp_path / "shapes").counts
    assert {name: count for name, count in counts.items() if name.startswith("lost/")} == {
        "lost/rollout": 1,
        "lost/reward": 1,
        "lost/learner": 1,
    }


def worker_of(run: subprocess.Popen[str], role: str) -> psutil.Process:
    """The first worker of a role, once its process has begun to be one."""
    while True:
        assert run.poll() is None, run.communicate()[1]
        for process in processes_of(run):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith(f"ray::{role}"):
                    return process
        time.sleep(LOOK_S)


def test_a_step_that_is_not_done_in_time_is_abandoned(tmp_path: Path) -> None:
    """A learner rank is frozen while it learns, and SIGTERM comes. After the stated time, which is
    over before the run has noticed that the rank is stopped, it ends without the step. The
    checkpoint before is whole, and no process is left."""
    every = ("checkpoint.every=1", "checkpoint.stop_within_s=1")
    with started(tmp_path, *every) as run:
        wait_for(run, "step 1/3")
        processes = processes_of(run)
        (learner,) = (p for p in processes if name_of(p).startswith("ray::Learner"))
        while OwnCheckpoints(tmp_path / "shapes").last() is None:
            assert run.poll() is None
            time.sleep(LOOK_S)
        learner.suspend()
        run.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = run.communicate(timeout=120)
        assert 1 < time.monotonic() - began < 115
        assert run.returncode == 130, said
        assert "was not done 1 s after the signal (checkpoint.stop_within_s); it is abandon" in said
        last = OwnCheckpoints(tmp_path / "shapes").last()
        assert f"eg-grpo: stopped at once (the last checkpoint is {last}; go on with: " in said
        assert left_over(processes) == []
    assert last is not None
    verified_manifest(last)


def test_a_driver_that_was_frozen_and_replaced_changes_no_file(tmp_path: Path) -> None:
    """The older driver is frozen in a step, and its workers are not. A newer driver on a host that
    does not see the locks goes on with the run and ends it. Then the older one wakes up: it ends
    with one line and exit code 1, and every file of the folder is as the newer one left it.

    A host that does not see the locks is one for which they are not there. Each driver has a Redis
    of its own, with the same data, so the folder alone tells the older one of the newer.
    """
    every = ("steps=2", "checkpoint.every=1", "trajectories.keep_steps=2")
    folder = tmp_path / "shapes"
    with started(tmp_path, *every) as older:
        wait_for(older, "step 1/2")
        # A checkpoint gets its name in the middle of the next step.
        while OwnCheckpoints(folder).last() is None:
            assert older.poll() is None
            time.sleep(LOOK_S)
        older.send_signal(signal.SIGSTOP)
        for lock in (folder / ".lock", folder / "ledger" / ".lock"):
            lock.unlink(missing_ok=True)
        with started(tmp_path, "--resume", *every) as newer:
            _, said = newer.communicate(timeout=300)
        assert newer.returncode == 0, said
        assert [row["step"] for row in rows(folder)] == [1, 2]
        before = content(folder)
        older.send_signal(signal.SIGCONT)
        _, said = older.communicate(timeout=120)
        assert older.returncode == 1, said
        assert re.fullmatch(
            r"eg-grpo: driver epoch 2 took over run [0-9a-f]+; this process \(epoch 1\) may write"
            r" nothing any more",
            said.splitlines()[-1],
        ), said
        assert "Traceback" not in said
        assert content(folder) == before


def content(folder: Path) -> dict[Path, bytes]:
    """Every file below the folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def ray_is_starting(run: subprocess.Popen[str]) -> None:
    """Wait until the first process of Ray is there, seconds before ``ray.init`` returns."""
    driver = psutil.Process(run.pid)
    while not any(name_of(child) == "gcs_server" for child in driver.children()):
        assert run.poll() is None
        time.sleep(LOOK_S)
