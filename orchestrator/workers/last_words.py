"""What a worker that does not answer is doing: whether its process runs, where, and its last lines.

Every worker tells at its start where it runs, and has its stacks written to its log when it gets
SIGUSR1. A worker that misses a deadline gets this signal. Ray forwards its log to the terminal and
keeps it on the worker's machine.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from policy.stopped import process_state

_STACKS_S = 0.5  # that a process needs at most to write its stacks
_REMOTE_S = 15.0  # to have another machine look: Ray may have to start a process there
_SILENT_S = 60.0  # for which a machine that did not answer is not asked again
_silent_until: dict[str, float] = {}  # by the node's id
_LINES, _LONGEST_LINE = 3, 200
_STATES = {
    "T": "is stopped (SIGSTOP)",
    "t": "is stopped by a debugger",
    "Z": "has ended",
    "D": "waits for I/O",
}


@dataclass(frozen=True)
class Whereabouts:
    """Where a worker runs."""

    pid: int
    host: str
    node_id: str
    log: str  # the file on that machine that its standard error goes to


def report_whereabouts(actor: Any) -> Whereabouts:
    """Called in the worker's process, as the first call to the actor."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    context = ray.get_runtime_context()
    log = os.readlink("/proc/self/fd/2")
    return Whereabouts(os.getpid(), socket.gethostname(), context.get_node_id(), log)


def last_words(where: Whereabouts) -> str:
    """One line about the process; it takes up to some seconds when it is on another machine."""
    if where.node_id == ray.get_runtime_context().get_node_id():
        return words_of_this_host(where)
    return f"process {where.pid} on {where.host} {_look_there(where)}"


def _look_there(where: Whereabouts) -> str:
    """A machine that does not answer is not asked again for a while: all of its workers miss their
    deadlines together, and the run waits for each look."""
    if time.monotonic() >= _silent_until.get(where.node_id, -math.inf):
        there = NodeAffinitySchedulingStrategy(where.node_id, soft=False)
        call = ray.remote(look).options(num_cpus=0, scheduling_strategy=there)
        try:
            return ray.get(call.remote(where.pid, where.log), timeout=_REMOTE_S)
        except RayError:
            _silent_until[where.node_id] = time.monotonic() + _SILENT_S
    return "cannot be looked at: its machine does not answer either"


def words_of_this_host(where: Whereabouts) -> str:
    """``last_words`` about a process of this machine."""
    return f"process {where.pid} on {where.host} {look(where.pid, where.log)}"


def look(pid: int, log: str) -> str:
    """The state of a process of this machine, and the last lines of its log.

    A running process is made to write its stacks, which become part of the log.
    """
    state = process_state(pid)
    if state is None:
        return "is gone"
    said = " | ".join(_tail(Path(log))[-_LINES:]) or "nothing"
    if state in ("R", "S"):
        before = _size(log)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
        end = time.monotonic() + _STACKS_S
        while time.monotonic() < end and _size(log) == before:
            time.sleep(0.02)
        return f"runs; its log ends: {said}; its stacks are in {log}"
    return f"{_STATES.get(state, state)}; its log ends: {said}"


def _size(log: str) -> int:
    return os.stat(log).st_size if os.path.exists(log) else 0


def _tail(file: Path) -> list[str]:
    with contextlib.suppress(OSError), file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4096))
        text = stream.read().decode(errors="replace")
        return [line.strip()[:_LONGEST_LINE] for line in text.splitlines() if line.strip()]
    return []
