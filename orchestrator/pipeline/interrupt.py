"""Handles Ctrl-C and SIGTERM.

The first signal lets the run finish its step and save a checkpoint. If that takes longer than
``stop_within_s``, the step is abandoned: the last checkpoint is whole, and the run goes on from it.
A second signal stops the run at once. Before the first step no work can be lost, so there the first
signal stops it at once.

``KeyboardInterrupt`` stops the run. Python drops an exception that reaches the end of a ``__del__``
or of a callback, of which libraries have some. One that was dropped so is raised again.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Slurm sends SIGTERM to every process of a job step, and srun passes on the SIGTERM that it gets
# itself. So one request to stop can arrive twice. A second SIGTERM within this time is ignored.
_ONE_SIGTERM_S = 1.0

_AGAIN_S = 0.01  # after which a dropped KeyboardInterrupt is raised again


class Interrupt:
    """Knows whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.stepping = False  # true from the first step on
        self.echo_until = 0.0
        self.stop_within_s = math.inf
        self._dropped = False  # a KeyboardInterrupt, which the alarm is to raise again
        self._others = sys.unraisablehook  # told of all other exceptions that Python drops

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            if time.monotonic() < self.echo_until:
                return
            self.echo_until = time.monotonic() + _ONE_SIGTERM_S
        if self.requested or not self.stepping:
            raise KeyboardInterrupt
        self.requested = True
        if self.stop_within_s < math.inf:
            signal.setitimer(signal.ITIMER_REAL, self.stop_within_s)
        again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again"
        print(f"\nstopping after this step; {again} to stop at once", file=sys.stderr)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if not self._dropped:
            print(
                f"\nthe step was not done {self.stop_within_s:g} s after the signal"
                " (checkpoint.stop_within_s); it is abandoned",
                file=sys.stderr,
            )
        raise KeyboardInterrupt

    def _on_dropped(self, dropped: sys.UnraisableHookArgs) -> None:
        """Python's hook for an exception that it drops."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            self._dropped = True
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            self._others(dropped)


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Handle SIGINT and SIGTERM as the module says, and restore the old handlers on exit."""
    interrupt = Interrupt()
    previous = {
        number: signal.signal(number, interrupt._on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt._on_alarm)
    sys.unraisablehook = interrupt._on_dropped
    try:
        yield interrupt
    finally:
        sys.unraisablehook = interrupt._others
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Wait until no repeated SIGTERM can arrive: the old handler would act on it.
        time.sleep(max(0.0, interrupt.echo_until - time.monotonic()))
        for number, handler in previous.items():
            signal.signal(number, handler)
