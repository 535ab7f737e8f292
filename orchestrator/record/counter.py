"""Lines about work that is counted, such as images that are drawn: how many, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.record.progress import duration

_PAUSE_S = 10.0  # between two lines


class Counter:
    """Tells at most every ten seconds how far the work is, and once when it is done."""

    def __init__(self, tell: Callable[[str], None], what: str, total: int, done: int = 0) -> None:
        """``what`` is the work in words, such as ``images drawn``; ``done`` was done before."""
        self._tell, self._what, self._total = tell, what, total
        self._before = self._done = done
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """So much more of the work is done."""
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now < self._told + _PAUSE_S:
            return
        self._told = now
        text = f"{self._what}: {self._done} of {self._total}"
        rate = (self._done - self._before) / max(now - self._began, 1e-9)
        if self._done < self._total:
            left = duration((self._total - self._done) / rate)
            self._tell(f"{text}, {rate:.1f} a second, ETA {left}")
        else:
            self._tell(f"{text} in {duration(now - self._began)}")
