"""What is said of a worker that does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.workers.last_words import look

HANGS = """
import faulthandler, signal, sys, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
def stuck_here():
    print("loading the model", file=sys.stderr, flush=True)
    time.sleep(600)
stuck_here()
"""


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", HANGS], stderr=stream)
    while b"loading" not in log.read_bytes() or "(sleeping)" not in status(process.pid):
        time.sleep(0.02)
    yield process, str(log)
    process.kill()
    process.wait()


def test_a_process_that_hangs_writes_its_stacks(
    hanging: tuple[subprocess.Popen[bytes], str],
) -> None:
    """The line names its last words and the file, in which the stack says where it hangs."""
    process, log = hanging
    said = look(process.pid, log)
    assert said == f"runs; its log ends: loading the model; its stacks are in {log}"
    deadline = time.monotonic() + 60  # a busy machine may let it write later
    while "stuck_here" not in Path(log).read_text():
        assert time.monotonic() < deadline, "it has not written its stacks"
        time.sleep(0.02)
    assert process.poll() is None


def test_a_frozen_process_is_called_stopped(hanging: tuple[subprocess.Popen[bytes], str]) -> None:
    """It cannot write its stacks, and it is not asked to."""
    process, log = hanging
    os.kill(process.pid, signal.SIGSTOP)
    while "(stopped)" not in status(process.pid):
        time.sleep(0.02)
    assert look(process.pid, log) == "is stopped (SIGSTOP); its log ends: loading the model"


def test_a_process_that_is_gone_is_called_so(tmp_path: Path) -> None:
    """Also when its log is gone with it."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert look(process.pid, str(tmp_path / "none")) == "is gone"
