"""Prints how far a training is."""

from __future__ import annotations

import time
from collections.abc import Callable

_REPORT_EVERY = 50


def progress(name: str, steps: int) -> Callable[[int, str], None]:
    """A function that prints every 50th step, counted from 1, and the minutes that are left."""
    start = time.monotonic()

    def report(step: int, text: str) -> None:
        if step % _REPORT_EVERY == 0 or step == steps:
            left = (time.monotonic() - start) / step * (steps - step)
            print(f"{name} {step}/{steps}: {text}, {left / 60:.1f} min left", flush=True)

    return report
