"""The Slurm script, run with stand-ins for Slurm's commands on hosts of a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger_folder import read_run
from tests.deploy.slurm_stand_ins import first_child, slurm
from tests.multihost.hosts import ROOT, Host, network, wait_for, why_not
from tests.training_records import rows

SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
TINY = (
    "steps=3 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=2"
    " learner.micro_batch_size=4 evaluation.prompts=1 evaluation.samples_per_prompt=1"
    " evaluation.every=100 checkpoint.every=1"
).split()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, because Ray keeps sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_preempted_job_goes_back_to_the_queue_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """SIGTERM to the batch shell, as `--signal=B:TERM@900` sends it, ends the run after a step, and
    all that was started on the three hosts; the job goes back to the queue. When it starts again,
    it goes on from the checkpoint, under the next epoch, and ends the run."""
    run = tmp_path / "shapes"
    with network(folder) as net:
        hosts = [net.add(name, number) for number, name in enumerate(("one", "two", "three"), 1)]
        with slurm(folder, hosts) as programs:
            log = tmp_path / "first.log"
            first = submit(hosts, programs, log, tmp_path, restarts=0)
            wait_for("a checkpoint", lambda: written(run, 1) or first.poll() is not None, 300)
            assert first.poll() is None, said(log, folder)
            os.kill(first_child(first), signal.SIGTERM)
            assert first.wait(timeout=120) == 130, said(log, folder)
            assert (folder / "requeued").read_text() == "4711\n"
            assert [processes(host) for host in hosts] == [0, 0, 0]
            done = read_run(run).committed
            assert 1 <= done < 3

            log = tmp_path / "second.log"
            second = submit(hosts, programs, log, tmp_path, restarts=1)
            assert second.wait(timeout=300) == 0, said(log, folder)
            assert [processes(host) for host in hosts] == [0, 0, 0]
    assert "start 2 on 3 hosts: one two three" in log.read_text()
    assert (folder / "requeued").read_text() == "4711\n"
    assert [row["step"] for row in rows(run)] == [1, 2, 3]
    assert (read_run(run).epoch, read_run(run).committed) == (2, 3)


def submit(
    hosts: list[Host], programs: Path, log: Path, root: Path, restarts: int
) -> subprocess.Popen[str]:
    """Start the batch script on the first host, as Slurm does."""
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = hosts[0].environment | {
        "PATH": path, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": ",".join(host.name for host in hosts),
        "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    with log.open("w") as file:
        return subprocess.Popen(
            hosts[0].command("bash", str(SCRIPT), "configs/shapes.yaml", f"root={root}", *TINY),
            env=environment, stdout=file, stderr=file, text=True,
        )  # fmt: skip


def written(run: Path, step: int) -> bool:
    return (run / "checkpoints" / f"step-{step}").is_dir()


def processes(host: Host) -> int:
    """How many processes there are on the host, without its first one and the one that counts."""
    return len(host.run("sh", "-c", "echo /proc/[0-9]*").stdout.split()) - 2


def said(log: Path, folder: Path) -> str:
    """The end of what the batch script and the job steps have printed."""
    return log.read_text()[-3000:] + (folder / "steps.log").read_text()[-3000:]
