"""Runs a command and watches its processes: what each does, for how long, in how much memory.

Ray writes into the title of a worker's process what the worker does. So a run is measured as it is,
without a line of it changed. What lasts shorter than the time between two looks, a tenth of a
second, can be missed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.processes import Process, become_subreaper, bury, descendants, send

_LOOK_S = 0.1
_WEIGH_S = 1.0  # the kernel walks all pages of a process to weigh it
_END_S = 30.0  # within which the processes of a run must be gone after its driver


@dataclass
class Memory:
    """Bytes of one process, or of all, when they were most."""

    resident: int = 0
    own: int = 0  # not of a mapped file and not shared memory
    proportional: int = 0  # a page that n processes have counts as 1/n of a page

    def worst(self, other: Memory) -> None:
        """Take each figure of ``other`` that is larger."""
        self.resident = max(self.resident, other.resident)
        self.own = max(self.own, other.own)
        self.proportional = max(self.proportional, other.proportional)


@dataclass
class Span:
    """A time in which a process did one thing, in seconds since the command began."""

    doing: str
    begin: float
    end: float


@dataclass
class Worker:
    """One worker's process; ``spans`` follow each other without a gap."""

    name: str  # role and number, such as ``reward 2``
    memory: Memory = field(default_factory=Memory)
    starting: Memory = field(default_factory=Memory)  # before its first work
    spans: list[Span] = field(default_factory=list)

    def total(self, doing: str) -> float:
        return sum(span.end - span.begin for span in self.spans if span.doing == doing)

    def first(self, doing: str) -> Span | None:
        return next((span for span in self.spans if span.doing == doing), None)


@dataclass
class Watched:
    """What was seen of a command."""

    seconds: float
    code: int
    together: Memory  # the most that all processes had at one time
    workers: list[Worker]
    store: int  # bytes of the object store that were ever written

    def first(self, role: str, doing: str) -> Span | None:
        """The first time that a worker of the role did this."""
        found = [w.first(doing) for w in self.workers if w.name.startswith(role)]
        return min((span for span in found if span), key=lambda span: span.begin, default=None)


def watched(command: Sequence[str], log: Path, stop_when: str | None = None) -> Watched:
    """Run the command, whose output goes to ``log``, and watch it until all its processes are gone.

    When a worker is first seen doing ``stop_when``, the command gets SIGTERM. Raises
    ``RuntimeError`` for processes that outlive the command by 30 s. Every descendant of this
    process counts as one of the command's, so it may have no others.
    """
    become_subreaper()
    workers: dict[int, Worker] = {}
    together, store, weighed, ended, stopped = Memory(), 0, 0.0, None, stop_when is None
    with log.open("a") as output:
        started = time.monotonic()
        driver = subprocess.Popen(command, stdout=output, stderr=output)
        while True:
            now = time.monotonic() - started
            processes = descendants()
            for process in processes:
                if process.role is not None and _looked_at(workers, process, now) == stop_when:
                    if not stopped:
                        driver.send_signal(signal.SIGTERM)
                    stopped = True
            if now - weighed >= _WEIGH_S:
                weighed = now
                together.worst(_weigh(processes, workers))
                store = max(store, *(written_store(process) for process in processes), 0)
            bury(driver.pid)
            if ended is None and driver.poll() is not None:
                ended = now
            if ended is not None:
                if not processes:
                    everyone = list(workers.values())
                    return Watched(ended, driver.returncode, together, everyone, store)
                if now - ended > _END_S:
                    for process in processes:
                        send(process.pid, signal.SIGKILL)
                    raise RuntimeError(f"{len(processes)} processes outlived {command[-1]}")
            time.sleep(_LOOK_S)


def _looked_at(workers: dict[int, Worker], process: Process, now: float) -> str:
    """Note what a worker does; returns it."""
    if process.pid not in workers:
        number = sum(w.name.startswith(str(process.role)) for w in workers.values()) + 1
        workers[process.pid] = Worker(f"{process.role} {number}")
    spans, doing = workers[process.pid].spans, process.doing
    if spans:
        spans[-1].end = now
    if not spans or spans[-1].doing != doing:
        spans.append(Span(doing, now, now))
    return doing


def _weigh(processes: Sequence[Process], workers: dict[int, Worker]) -> Memory:
    """Weigh every process, and return the sum."""
    everything = Memory()
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            found = memory_of(process.pid)
            if process.pid in workers:
                worker = workers[process.pid]
                worker.memory.worst(found)
                if {span.doing for span in worker.spans} <= {"starting", "idle"}:
                    worker.starting.worst(found)
            everything.resident += found.resident
            everything.own += found.own
            everything.proportional += found.proportional
    return everything


def memory_of(pid: int | None = None) -> Memory:
    """The memory that a process, by default this one, has now."""
    rows = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(amount.split()[0]) for name, _, amount in (row.partition(":") for row in rows)}
    return Memory(kib["Rss"] * 1024, kib["Anonymous"] * 1024, kib["Pss"] * 1024)


def written_store(process: Process) -> int:
    """Bytes of the object store that were ever written, if this is Ray's process that has one.

    Ray maps a file of the whole size and removes its name. The file system gives it a page when the
    page is first written, and keeps it: objects that follow each other in one place count once.
    """
    if Path(process.title.partition(" ")[0]).name != "raylet":
        return 0
    written = 0
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            if Path(os.readlink(descriptor)).name.startswith("plasma"):
                written += descriptor.stat().st_blocks * 512
    return written
