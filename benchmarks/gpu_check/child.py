"""Runs one part in a process of its own, so that a crash or a full GPU ends only that part."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.gpu_check.parts import AS_A_RANK
from benchmarks.gpu_check.task import Task
from policy.runtime import tune_process, use_expandable_segments


@dataclass(frozen=True)
class Failed:
    """Why a part ended before its end, in one line."""

    reason: str


def serve(module: str, task: Task, answers: Connection) -> None:
    """Send every figure as soon as it is there; at the end ``None``, or ``Failed``."""
    os.setsid()  # so that what the part starts can be ended with it
    tempfile.tempdir = str(task.folder)
    os.environ["TMPDIR"] = str(task.folder)
    faulthandler.enable()
    faulthandler.dump_traceback_later(task.seconds)  # where a part hangs, before it is killed
    try:
        if task.device == "cuda" and module.rpartition(".")[2] in AS_A_RANK:
            use_expandable_segments()
        tune_process(1 if task.device == "cpu" else min(8, os.cpu_count() or 1))
        for measure in importlib.import_module(module).measures(task):
            answers.send(measure)
        answers.send(None)
    except Exception as error:
        traceback.print_exc()
        said = (str(error).splitlines() or [""])[0]
        with contextlib.suppress(BrokenPipeError):
            answers.send(Failed(f"{type(error).__name__}: {said}"))
