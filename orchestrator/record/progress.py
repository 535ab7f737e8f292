"""What the user reads during a run: one line for each step, with the estimated time left."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from policy.secrets import masked
from policy.types import JsonDict

RECENT = 20  # steps whose mean duration gives the estimate
_LONG_WAIT_S = 5.0  # after which a line says what is awaited


class Progress:
    """Prints to standard error: standard output is for results."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def note(self, text: str) -> None:
        """Print one line with its secrets masked."""
        print(masked(text), file=sys.stderr, flush=True)

    def begin(self, step: int) -> None:
        """Take the steps that were done when the run began or went on. Lines do not show them."""

    def step(self, row: JsonDict) -> None:
        """Print the line of one step from its row of ``metrics.jsonl``."""
        left = self.seconds_left(row)
        self.note(
            f"step {row['step']:>{len(str(self.steps))}}/{self.steps}"
            f"  reward {number(row['reward/mean'])}  kl {number(row.get('kl/mean'))}"
            f"  entropy cot {number(row.get('entropy/cot/mean'))}"
            f" image {number(row.get('entropy/image/mean'))}"
            f"  {row['seconds/step']:.1f} s  ETA {duration(left)}"
        )

    def seconds_left(self, row: JsonDict) -> float:
        """The estimated time until the last step, after the step of this row; ask once a step."""
        self._seconds.append(row["seconds/step"])
        return float((self.steps - row["step"]) * sum(self._seconds) / len(self._seconds))

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what the context waits for, such as ``starting Ray``, if it takes over 5 s."""
        text = f"{what} ({_LONG_WAIT_S:g} s so far)"
        timer = threading.Timer(_LONG_WAIT_S, self.note, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def workers(self, states: Sequence[tuple[str, str]]) -> None:
        """Take the role and the state of every worker. Lines do not show them."""


def duration(seconds: float) -> str:
    """A duration as text: ``1 h 02 min``, ``3 min 05 s`` or ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def number(value: float | None) -> str:
    """A metric as text with four decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"
