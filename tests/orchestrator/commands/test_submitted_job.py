"""A run as a job of a Ray cluster: submitted by the same command again, and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobSubmissionClient

from orchestrator.pipeline.ledger_folder import read_run
from tests.command_line import ONE_REWARD
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).parent / "ray")
TINY = (
    "steps=1000 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    f" learner.micro_batch_size=4 data.evaluation={{}} checkpoint.every=3 {ONE_REWARD}"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine that takes jobs.

    Ray gives its processes 30 s to start, which can be too short on a busy machine, and another
    program may take one of the ports first. Then another attempt is made.
    """
    with ExitStack() as stack:
        for _ in range(3):
            if address := stack.enter_context(started_cluster()):
                break
        assert address, "Ray has not started"
        yield address


@contextmanager
def started_cluster() -> Iterator[str | None]:
    """Nothing if Ray has ended at once."""
    ports = [str(free_port()) for _ in range(3)]
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, because Ray keeps sockets in it
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--port", ports[0], "--node-ip-address", "127.0.0.1",
         "--dashboard-host", "127.0.0.1", "--dashboard-port", ports[1], "--temp-dir", folder,
         # The agent starts jobs. Its own choice is one port, which another Ray may have taken.
         "--dashboard-agent-listen-port", ports[2],
         "--num-cpus", "8", "--object-store-memory", str(128 * 2**20), "--disable-usage-stats"],
        env=os.environ | {"RAY_JOB_STOP_WAIT_TIME_S": "200"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        deadline = time.monotonic() + 120
        while head.poll() is None and not takes_jobs(address):
            assert time.monotonic() < deadline, "the cluster takes no jobs"
            time.sleep(0.2)
        yield address if head.poll() is None else None
    finally:
        processes = []
        with suppress(psutil.NoSuchProcess):
            processes = psutil.Process(head.pid).children(recursive=True)
        for process in (*processes, head):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_command_goes_on_with_a_run_and_a_stop_saves_a_step(
    cluster: str, tmp_path: Path
) -> None:
    """The driver of the first job is killed after a checkpoint. The second job has the same command
    line and goes on from there. ``ray job stop`` ends it, and the step that it was in is saved. Ray
    sends SIGTERM to the run's own Redis too, and waits as long as is set where the head started."""
    run = tmp_path / "shapes"
    submit = [RAY, "job", "submit", "--address", cluster, "--no-wait"]
    command = ["--", "env", "-C", str(ROOT), sys.executable, "-m", "orchestrator", "train",
               "configs/shapes.yaml", "--resume", f"root={tmp_path}", *TINY]  # fmt: skip
    deadline = time.monotonic() + 500
    # The cluster answers a little before the agent of the head can take a job.
    while (first := said(*submit, *command)).returncode:
        assert time.monotonic() < deadline, first.stdout + first.stderr
    wait_for(lambda: (run / "checkpoints" / "step-3").is_dir(), "a checkpoint", deadline)
    _, pid, *_ = (run / ".lock").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    killed = read_run(run).committed
    second = said(*submit, "--submission-id", "second", *command)
    assert second.returncode == 0, second.stdout + second.stderr
    deadline = time.monotonic() + 500
    wait_for(lambda: read_run(run).epoch == 2 and len(rows(run)) > killed, "a step", deadline)
    stopped = said(RAY, "job", "stop", "--address", cluster, "second")
    log = said(RAY, "job", "logs", "--address", cluster, "second").stdout
    assert "Job 'second' was stopped" in stopped.stdout + stopped.stderr, log
    assert "stopping after this step" in log
    assert "eg-grpo: stopped (" in log
    steps = [row["step"] for row in rows(run)]
    assert steps == list(range(1, len(steps) + 1))
    assert (run / "checkpoints" / f"step-{len(steps)}").is_dir(), log
    assert read_run(run).committed == len(steps)


def takes_jobs(address: str) -> bool:
    """What ``ray job list`` finds out, without a process that imports Ray for each look."""
    try:
        JobSubmissionClient(address).list_jobs()
    except (ConnectionError, RuntimeError):
        return False
    return True


def said(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that has ended, with what it printed."""
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def wait_for(happened: Callable[[], bool], what: str, deadline: float) -> None:
    """Wait until it is so; fails at the deadline, a monotonic time."""
    while not happened():
        assert time.monotonic() < deadline, f"{what} was not in time"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
