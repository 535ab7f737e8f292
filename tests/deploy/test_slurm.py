"""The Slurm script, run with stand-ins for Slurm's commands on hosts of a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.pipeline.ledger_folder import read_run
from tests.command_line import ONE_REWARD
from tests.deploy.slurm_stand_ins import first_child, installed, slurm
from tests.multihost.hosts import ROOT, Host, needs_hosts, network, wait_for
from tests.training_records import rows

SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
STEPS = 12  # so many that the run does not end before the signal has come
TINY = (
    f"steps={STEPS} prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=2"
    f" learner.micro_batch_size=4 data.evaluation={{}} checkpoint.every=1 {ONE_REWARD}"
).split()
STARTS = 3  # of a job whose Ray was too slow
# The first process of a host does not ask how its children have ended, so they stay as zombies.
_PROCESSES = """
import os, psutil
for one in psutil.process_iter(["cmdline", "status"]):
    if one.pid not in (1, os.getpid()) and one.info["status"] != psutil.STATUS_ZOMBIE:
        print(one.pid, *one.info["cmdline"])
"""
# Programs for the test of the script alone. Each job step has the name of its host in HOST.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && export HOST=${1#*=}; shift; done
exec "$@"
"""
RAY = f"""#!/bin/sh
case "$*" in *--head*) exec {sys.executable} -c '
import os, socket, time
with socket.create_server(("127.0.0.1", int(os.environ["RAY_ADDRESS"].split(":")[1]))):
    time.sleep(60)
' ;; esac
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, because Ray keeps sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_preempted_job_goes_back_to_the_queue_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """SIGTERM to the batch shell, as `--signal=B:TERM@900` sends it, ends the run after a step, and
    all that was started on the three hosts; the job goes back to the queue. When it starts again,
    it goes on from the checkpoint, under the next epoch, and ends the run."""
    needs_hosts()
    run = tmp_path / "shapes"
    with network(folder) as net:
        hosts = [net.add(name, number) for number, name in enumerate(("one", "two", "three"), 1)]
        with slurm(folder, hosts) as programs:
            log = tmp_path / "first.log"
            for _ in range(STARTS):
                first = submit(hosts, programs, log, tmp_path, restarts=0)
                wait_for("a checkpoint", partial(written_or_ended, run, first), 300)
                if not ray_was_too_slow(first, folder):
                    break
            assert first.poll() is None, said(log, folder)
            os.kill(first_child(first), signal.SIGTERM)
            assert first.wait(timeout=120) == 130, said(log, folder)
            assert (folder / "requeued").read_text() == "4711\n"
            all_ended(hosts)
            done = read_run(run).committed
            assert 1 <= done < STEPS

            log = tmp_path / "second.log"
            for _ in range(STARTS):
                second = submit(hosts, programs, log, tmp_path, restarts=1)
                second.wait(timeout=300)
                if not ray_was_too_slow(second, folder):
                    break
            assert second.returncode == 0, said(log, folder)
            all_ended(hosts)
    assert "start 2 on 3 hosts: one two three" in log.read_text()
    assert (folder / "requeued").read_text() == "4711\n"
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    assert (read_run(run).epoch, read_run(run).committed) == (2, STEPS)


@pytest.mark.parametrize(
    ("join", "train", "host", "code", "line", "requeued"),
    [
        ("exec sleep 60", "exit 0", "exec sleep 60", 143, "stopped by a signal", True),
        ("exit 0", "exit 2", "exec sleep 60", 2, "start 1 on 2 hosts: one two", False),
        ("exec sleep 60", "exit 0", "exit 1", 1, "Ray ended on two", False),
    ],
    ids=["signal while hosts join", "mistake in the settings", "no Ray on a host"],
)
def test_the_script_alone(
    tmp_path: Path, join: str, train: str, host: str, code: int, line: str, requeued: bool
) -> None:
    """With stand-ins for Ray and the project too: the exit code is the run's, all that was started
    ends, and the job goes back to the queue only if a signal has stopped it."""
    texts = {"hostname": "echo 127.0.0.1", "python": join, "eg-grpo": train}
    shells = {name: f"#!/bin/sh\n{text}\n" for name, text in texts.items()}
    programs = installed(tmp_path, srun=SRUN, ray=f"{RAY}{host}\n", **shells)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "one,two",
    }  # fmt: skip
    script = subprocess.Popen(
        ["bash", str(SCRIPT), "configs/shapes.yaml"], env=environment, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    if requeued:
        wait_for("the joining", lambda: "sleep" in names_in(script.pid), 60)
        script.terminate()
    printed, _ = script.communicate(timeout=300)
    assert (script.returncode, line in printed) == (code, True), printed
    assert (tmp_path / "requeued").exists() == requeued
    assert not names_in(script.pid)


def names_in(session: int) -> list[str]:
    """The names of the processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session:
                found.append(process.name())
    return found


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


def written_or_ended(run: Path, job: subprocess.Popen[str]) -> bool:
    """Whether the run has a checkpoint, or its job has ended."""
    return any((run / "checkpoints").glob("step-*")) or job.poll() is not None


def ray_was_too_slow(job: subprocess.Popen[str], folder: Path) -> bool:
    """Whether the job has ended because Ray, which gives a node 30 s, needed longer on a busy
    machine. What it printed is removed then."""
    steps = folder / "steps.log"
    slow = job.poll() == 1 and "timed out during startup" in steps.read_text()
    if slow:
        steps.write_text("")
    return slow


def all_ended(hosts: Sequence[Host]) -> None:
    """Ray's processes may need some seconds to notice that their raylet has ended, and its agents
    a minute that the GCS has."""
    for host in hosts:
        deadline = time.monotonic() + 100
        while (left := processes(host)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not left, f"on {host.name}: {left}"


def processes(host: Host) -> str:
    """Command lines of what runs on the host, without its first process and the one that looks."""
    return host.run(sys.executable, "-c", _PROCESSES).stdout


def said(log: Path, folder: Path) -> str:
    """The end of what the batch script and the job steps have printed."""
    return log.read_text()[-3000:] + (folder / "steps.log").read_text()[-3000:]
