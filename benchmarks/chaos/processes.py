"""The processes of a run, found by their titles among the descendants of this process.

This process is the subreaper of its descendants: the kernel hands a process to it whose parent has
died. So every process that a run has started stays a descendant, and no other process is one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.plan import Role

_TITLES: dict[str, Role] = {
    "ray::RolloutWorker": "rollout",
    "ray::RewardWorker": "reward",
    "ray::LearnerWorker": "learner",
}
_SERVERS = ("redis-server", "valkey-server")
# What a worker is doing, by the method in its title.
_STATES = {
    "": "idle",
    "__init__": "starting",
    "__ray_call__": "starting",
    "identity": "starting",
    "ready": "starting",
    "host": "starting",
    "prepare": "starting",
    "place_of_rank_0": "starting",
    "join": "starting",
    "load": "starting",
    "generate_groups": "sampling",
    "load_weights": "load",
    "score": "scoring",
    "update": "learning",
    "begin_push": "push",
    "push_buckets": "push",
    "end_push": "push",
    "save": "checkpoint",
}
_PR_SET_CHILD_SUBREAPER = 36
_LISTEN = "0A"  # a state in /proc/net/tcp


@dataclass(frozen=True)
class Process:
    """A process at one moment."""

    pid: int
    parent: int
    state: str  # one letter, as in /proc
    title: str

    @property
    def role(self) -> Role | None:
        """The role of a worker or of the ledger's server; None for all others."""
        for title, role in _TITLES.items():
            if self.title == title or self.title.startswith(f"{title}."):
                return role
        return "redis" if Path(self.title.partition(" ")[0]).name in _SERVERS else None

    @property
    def untold(self) -> bool:
        """Whether this worker has not yet told the run where it runs.

        Ray does not end an actor that is stopped in its constructor, which keeps its CPU.
        """
        return self.title.partition(" ")[0].endswith((".__init__", ".__ray_call__"))

    @property
    def doing(self) -> str:
        """What a worker is doing, as its title says."""
        method = self.title.partition(" ")[0].partition(".")[2]
        return _STATES.get(method, "unknown")


def become_subreaper() -> None:
    """Have the kernel hand orphans among the descendants to this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> list[Process]:
    """All living descendants of this process; those that have ended are left out."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found, queue = [], [os.getpid()]
    while queue:
        for process in children.get(queue.pop(), []):
            queue.append(process.pid)
            if process.state != "Z":
                found.append(process)
    return found


def described(pid: int) -> Process | None:
    """The process as it is now; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]
    title = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, int(parent), state, title)


def frozen(pid: int) -> Process | None:
    """Stop a process and return it as it is then; None if it has ended before."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while (process := described(pid)) and process.state not in "TZ":
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return None if process is None or process.state == "Z" else process


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; does nothing if the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def listening_sockets() -> dict[str, str]:
    """The TCP sockets that some process of this machine listens on: inode -> address and port, in
    the hexadecimal form of /proc/net/tcp."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                found[fields[9]] = fields[1]
    return found


def listened_on(processes: Sequence[Process]) -> dict[str, str]:
    """Those of ``listening_sockets`` that one of the processes holds."""
    listening = listening_sockets()
    held = set()
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            for entry in os.scandir(f"/proc/{process.pid}/fd"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    target = os.readlink(entry.path)  # such as socket:[12345]
                    held.add(target.removeprefix("socket:[").removesuffix("]"))
    return {inode: address for inode, address in listening.items() if inode in held}


def bury(keep: int | None) -> None:
    """Take the exit codes of orphans that have ended, so that they are gone. Not that of ``keep``,
    which another part of this process waits for."""
    for process in _all():
        if process.parent == os.getpid() and process.state == "Z" and process.pid != keep:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _all() -> Iterator[Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (process := described(int(entry.name))):
            yield process
