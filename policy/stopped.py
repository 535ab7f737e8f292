"""Tells which processes of this host are stopped, as by SIGSTOP, and are not only slow.

The kernel says so itself. A process that has not run for long because the machine is loaded is
never in that state, and neither is one that a debugger or a profiler holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

EVERY_S = 0.5  # a good pause between two looks
_STOPPED_S = 2.0
# After a longer pause between two looks, whoever looks was probably stopped as well, such as by
# Ctrl-Z or by a suspended Slurm job. Then all processes wake up, but one after another.
_LONGEST_PAUSE_S = 1.5


def process_state(pid: int) -> str | None:
    """The state letter of /proc; None for a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return status.rpartition(")")[2].split()[0]


class Looks:
    """Looks at processes again and again, and remembers since when each is stopped."""

    def __init__(
        self,
        state: Callable[[int], str | None] = process_state,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``monotonic`` gives the time in seconds."""
        self._state, self._monotonic = state, monotonic
        self._since: dict[int, float] = {}
        self._looked_at = 0.0

    def stopped(self, pids: Iterable[int]) -> set[int]:
        """Look once: those of the processes that every look of the last 2 s has found stopped."""
        now = self._monotonic()
        if now > self._looked_at + _LONGEST_PAUSE_S:
            self._since.clear()
        self._looked_at = now
        # T is a process that a signal has stopped, and t one that is traced.
        self._since = {pid: self._since.get(pid, now) for pid in pids if self._state(pid) == "T"}
        return {pid for pid, since in self._since.items() if now >= since + _STOPPED_S}
