"""Signals as Slurm and Kubernetes send them, to a run in its own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.training_records import rows

ROOT = Path(__file__).parents[3]
TINY = (
    "steps=3 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    " learner.micro_batch_size=4 evaluation.prompts=1 evaluation.samples_per_prompt=1"
    " evaluation.every=100 checkpoint.every=100 cluster.object_store_mb=128"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@contextmanager
def started(root: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of its own session, which is what a Slurm step is to this machine."""
    run = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml", f"root={root}",
         *TINY, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    silence = threading.Timer(300, run.kill)
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


def left_over(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return alive


def test_sigterm_to_every_process_finishes_the_step_and_saves(tmp_path: Path) -> None:
    """Raylet, GCS and workers live on; the step is saved, nothing stays behind, --resume goes on.

    Without the shield the workers die of the signal, and the run with them.
    """
    with started(tmp_path) as run:
        wait_for(run, "step 1/3")
        processes = processes_of(run)
        names = {process.name() for process in processes}
        assert {"raylet", "gcs_server"} <= names
        assert any(name.startswith("ray::Learner") for name in names), names
        for process in processes:
            process.send_signal(signal.SIGTERM)
        out, said = run.communicate(timeout=300)
        assert run.returncode == 130, said
        assert "stopping after this step; send SIGTERM again to stop at once" in said
        assert "eg-grpo: stopped (the last checkpoint is " in said
        assert "Traceback" not in said
        saved = len(rows(tmp_path / "shapes"))
        assert saved in (1, 2)
        assert f"checkpoint: {tmp_path}/shapes/checkpoints/step-{saved}\n" in out
        assert left_over(processes) == []
    with started(tmp_path, "--resume") as run:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    assert [row["step"] for row in rows(tmp_path / "shapes")] == [1, 2, 3]


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
            process.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
        assert run.returncode == 130, said
        assert said.splitlines()[-1] == (
            f"eg-grpo: stopped at once ({tmp_path}/shapes has no checkpoint yet; begin again with:"
            f" eg-grpo train {tmp_path}/shapes/config.yaml --resume)"
        )
        assert "step 1/3" not in said
        assert "Traceback" not in said
        assert left_over(processes) == []
    assert not (tmp_path / "shapes" / "metrics.jsonl").exists()


def ray_is_starting(run: subprocess.Popen[str]) -> None:
    """Wait until the first process of Ray is there, seconds before ``ray.init`` returns."""
    driver = psutil.Process(run.pid)
    while not any(child.name() == "gcs_server" for child in driver.children()):
        assert run.poll() is None
