"""Ctrl-C and SIGTERM: finish the step, save, say where; a second one stops at once.

While nothing would be lost, which is until the first step begins, the first one stops at once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Slurm signals every process of a step, and srun hands on to them what it gets itself.
_ONE_SIGTERM_S = 1.0


class Interrupt:
    """Whether the user, or who runs the cluster, asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.stepping = False  # set once a step is worth finishing
        self.echo_until = 0.0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            if time.monotonic() < self.echo_until:
                return
            self.echo_until = time.monotonic() + _ONE_SIGTERM_S
        if self.requested or not self.stepping:
            raise KeyboardInterrupt
        self.requested = True
        again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again"
        print(f"\nstopping after this step; {again} to stop at once", file=sys.stderr)


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Handle SIGINT and SIGTERM as said above; restores the old handlers on exit."""
    interrupt = Interrupt()
    previous = {
        number: signal.signal(number, interrupt._on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        # The old handler would take an echo for a signal of its own.
        time.sleep(max(0.0, interrupt.echo_until - time.monotonic()))
        for number, handler in previous.items():
            signal.signal(number, handler)
