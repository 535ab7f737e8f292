"""A run whose every process is killed at a random moment, and that goes on with ``--resume``."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.chaos.driver import Driver
from learner.step_checkpoint import verified_manifest
from orchestrator.record.own_checkpoints import OwnCheckpoints
from tests.command_line import command_on_test_cluster
from tests.training_records import untimed

STEPS = 4  # of the runs that are killed


def killed_and_resumed(
    root: Path, *settings: str, before: Callable[[Driver], None] = lambda run: None
) -> Path:
    """The folder of a run of ``STEPS`` steps, each with a checkpoint, that was killed and went on.

    ``before`` may strike it otherwise before it is killed.
    It begins in processes of its own, as the kill takes its Ray too. It goes on and ends on the
    cluster of the fixture ``ray_cluster``, where nothing of the first life is left but its folder.
    """
    # What a killed Ray leaves behind is in a folder with a short path, as Ray keeps sockets in it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        run = Driver(root, "struck", settings, Path(scratch))
        run.start()
        try:
            before(run)
            _wait(run)
            assert run.ended() is None, run.lines
        finally:
            if run.ended() is None:
                _kill_tree(psutil.Process(run.pid))
        run.wait_ended(10)
    assert OwnCheckpoints(run.folder).last() is not None
    command_on_test_cluster("train", run.folder / "config.yaml", "--resume")
    return run.folder


def has_the_bits_of(struck: Path, whole: Path) -> None:
    """Every row but for its times, and every file of the last checkpoint, are equal to the bit:
    the weights and what the optimizer needs to go on."""
    rows = untimed(struck)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows == untimed(whole)
    ours, theirs = (
        verified_manifest(run / "checkpoints" / f"step-{STEPS}") for run in (struck, whole)
    )
    assert any(name.startswith("state/") for name in ours.files)
    assert ours == theirs


def _wait(run: Driver) -> None:
    """Return at a random moment, when the run has a checkpoint and is not at its end."""
    # Step 1 is in a checkpoint by the time that step 2 has its row. Of the two steps that are left
    # then, the first one is going on when the kill comes.
    while run.steps_done() < STEPS - 2:
        assert run.ended() is None, run.lines
        time.sleep(0.05)
    delay_s = random.uniform(0, run.rows()[-1]["seconds/step"])
    time.sleep(delay_s)
    print(f"killed {delay_s:.3f} s after step {STEPS - 2}")  # pytest shows it if the test fails


def _kill_tree(root: psutil.Process) -> None:
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
    names = set()
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            names.add(process.name())
            process.kill()
    assert {"raylet", "gcs_server"} <= names
    _, alive = psutil.wait_procs(frozen, timeout=60)
    assert alive == []
