"""A run as a job of a Ray cluster, submitted by the same command until it is done."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.pipeline.ledger_folder import read_run
from tests.command_line import ONE_REWARD
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).parent / "ray")
TINY = (
    "steps=3 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    " learner.micro_batch_size=4 evaluation.prompts=1 evaluation.samples_per_prompt=1"
    f" evaluation.every=100 checkpoint.every=1 {ONE_REWARD}"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine that takes jobs."""
    ports = [str(free_port()) for _ in range(3)]
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, because Ray keeps sockets in it
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--port", ports[0], "--node-ip-address", "127.0.0.1",
         "--dashboard-host", "127.0.0.1", "--dashboard-port", ports[1], "--temp-dir", folder,
         # The agent starts jobs. Its own choice is one port, which another Ray may have taken.
         "--dashboard-agent-listen-port", ports[2],
         "--num-cpus", "8", "--object-store-memory", str(128 * 2**20), "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        deadline = time.monotonic() + 120
        while subprocess.run([RAY, "job", "list", "--address", address], capture_output=True,
                             check=False).returncode:  # fmt: skip
            assert head.poll() is None
            assert time.monotonic() < deadline, "the cluster takes no jobs"
        yield address
    finally:
        processes = [*psutil.Process(head.pid).children(recursive=True), head]
        for process in processes:
            process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_command_begins_a_run_and_goes_on_with_it(cluster: str, tmp_path: Path) -> None:
    """The driver of the first job is killed after a checkpoint. The second job has the same command
    line, goes on from there and ends the run."""
    run = tmp_path / "shapes"
    submit = [RAY, "job", "submit", "--address", cluster]
    command = ["--", "env", "-C", str(ROOT), sys.executable, "-m", "orchestrator", "train",
               "configs/shapes.yaml", "--resume", f"root={tmp_path}", *TINY]  # fmt: skip
    deadline = time.monotonic() + 300
    # The cluster answers a little before the agent of the head can take a job.
    while (
        first := subprocess.run(
            [*submit, "--no-wait", *command], capture_output=True, text=True, check=False
        )
    ).returncode:
        assert time.monotonic() < deadline, first.stdout + first.stderr
    while not (run / "checkpoints" / "step-1").is_dir():
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.1)
    _, pid, *_ = (run / ".lock").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    done = subprocess.run(
        [*submit, *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [row["step"] for row in rows(run)] == [1, 2, 3]
    assert (read_run(run).epoch, read_run(run).committed) == (2, 3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
