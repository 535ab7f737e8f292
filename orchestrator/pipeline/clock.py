"""How long the stages of a step take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Measures how long each stage of a step takes. Starts when it is made."""

    def __init__(self, entered: Callable[[str], None] = lambda stage: None) -> None:
        """``entered`` is told the name of each stage when it begins."""
        self._entered = entered
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the context to ``seconds/<name>``."""
        self._entered(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"seconds/{name}"] += time.perf_counter() - start

    def row(self) -> dict[str, float]:
        """Seconds of each stage, and ``seconds/step``: all the time since the clock was made."""
        total = time.perf_counter() - self.started
        return {name: round(value, 4) for name, value in self.seconds.items()} | {
            "seconds/step": round(total, 4)
        }
