"""What the user reads during a run: one line for each step, with the estimated time left."""

from __future__ import annotations

import sys
from collections import deque

from policy.secrets import masked
from policy.types import JsonDict

RECENT = 20  # steps whose mean duration gives the estimate


class Progress:
    """Prints to standard error: standard output is for results."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def note(self, text: str) -> None:
        """Print one line with its secrets masked."""
        print(masked(text), file=sys.stderr, flush=True)

    def step(self, row: JsonDict) -> None:
        """Print the line of one step from its row of ``metrics.jsonl``."""
        self._seconds.append(row["seconds/step"])
        left = (self.steps - row["step"]) * sum(self._seconds) / len(self._seconds)
        self.note(
            f"step {row['step']:>{len(str(self.steps))}}/{self.steps}"
            f"  reward {_number(row['reward/mean'])}  kl {_number(row.get('kl/mean'))}"
            f"  entropy cot {_number(row.get('entropy/cot/mean'))}"
            f" image {_number(row.get('entropy/image/mean'))}"
            f"  {row['seconds/step']:.1f} s  ETA {duration(left)}"
        )


def duration(seconds: float) -> str:
    """A duration as text: ``1 h 02 min``, ``3 min 05 s`` or ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
