"""What a run costs as ``eg-grpo train``, and what it costs here: CPU seconds of all processes."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cells import ROOT
from benchmarks.experiments.arms import Arm, write_one_task
from benchmarks.experiments.running import EVALUATION, run_one
from orchestrator.record.run_folder import read_rows
from policy.errors import UserError
from policy.runtime import tune_process
from policy.types import JsonDict

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def cost(arm: Arm, seed: int) -> None:
    """Make the run of an arm both ways, one after the other, and print what each took.

    Raises ``AssertionError`` when the evaluations differ, and ``UserError`` for an arm that
    ``eg-grpo train`` cannot make alone.
    """
    if arm.distilled:
        raise UserError(f"{arm.name} begins with a distillation, which eg-grpo train does not do")
    # Processes whose parent has ended, as those of Ray, become children of this one.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    cell = arm.cell(seed)
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_one_task(scratch)
        command = cell.command(scratch)
        trained = _cpu_seconds(lambda: _wait(subprocess.Popen(command, cwd=ROOT).pid))
        rows = read_rows(scratch / cell.name / "evaluations.jsonl")
        print(f"eg-grpo train: {trained:.0f} CPU s", flush=True)

        tune_process()
        here: list[JsonDict] = []
        spent = _cpu_seconds(lambda: here.append(run_one(arm, seed, scratch)), resource.RUSAGE_SELF)
    theirs = [
        {key: row.get(key) for key in EVALUATION} for row in rows if row["step"] == cell.steps
    ]
    stages = ", ".join(f"{name} {seconds:g}" for name, seconds in here[0]["cpu_seconds"].items())
    print(f"here: {spent:.0f} CPU s ({stages})")
    assert here[0]["evaluations"] == theirs
    print("the evaluations are equal to the bit")


def _cpu_seconds(work: Callable[[], object], whose: int = resource.RUSAGE_CHILDREN) -> float:
    before = resource.getrusage(whose)
    work()
    after = resource.getrusage(whose)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _wait(pid: int) -> None:
    """Wait for a process, and then for all that it has left behind."""
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("eg-grpo train failed")
    with suppress(ChildProcessError):
        while True:
            os.wait()
