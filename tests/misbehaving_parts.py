"""Parts of a check that go wrong, each after one figure; a part's name says how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.task import Measure, Task


@dataclass(frozen=True)
class Misbehaving(Part):
    """A part whose figures come from here."""

    @property
    def module(self) -> str:
        return __name__


def measures(task: Task) -> Iterator[Measure]:
    how = task.folder.name
    yield Measure("drawn", float(time.time_ns()))
    if how == "raises":
        raise ValueError("two lines\nof which one is kept")
    if how == "exits":
        os._exit(7)
    if how == "is_killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        yield Measure("helper", float(helper.pid))
        _wait()


def _wait() -> NoReturn:
    while True:
        time.sleep(60)
