"""Ctrl-C and SIGTERM: finish the step, save, say where; a second one stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a request; restores the old handlers on exit."""
    interrupt = Interrupt()
    previous = {
        number: signal.signal(number, interrupt._on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
