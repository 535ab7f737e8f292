"""The live view of a run on a terminal: progress, curves, stages, workers and warnings.

The view replaces the lines of ``Progress`` where standard error is a terminal. It is drawn below
everything else that the process prints: rich moves those lines, also the ones that Ray forwards
from workers, above the view.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.record.metrics import STAGES
from orchestrator.record.progress import Progress, duration, number
from policy.secrets import masked
from policy.types import JsonDict

_FRAMES_A_SECOND = 2
_WIDTH = 40  # characters of a curve or a bar
_WARNINGS = 3  # how many of the last ones are shown
_LEVELS = "▁▂▃▄▅▆▇█"
# The learner's states and the others', in the order in which the one that is named first explains
# best what a step is doing.
_BUSY = ("learner", "reward", "rollout")
_IDLE = {"idle", "asleep"}


@contextmanager
def shown_progress(steps: int) -> Iterator[Progress]:
    """The progress of a run: a live view on a terminal, else plain lines.

    At the end of the context, also after Ctrl-C, the last frame stays on the terminal and the
    cursor is visible again. If no step has ended and neither a note nor a warning was shown, the
    last frame is removed. A user who made a mistake in the input then sees the error's line alone.
    """
    if not can_show(sys.stderr):
        yield Progress(steps)
        return
    view = LiveProgress(steps)
    log = logging.getLogger("eg_grpo")
    with view.live:
        log.addHandler(view.warnings)
        try:
            yield view
        finally:
            log.removeHandler(view.warnings)
            view.end()


def can_show(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal that can move its cursor and shows block characters.

    It is None if the caller of the process has closed it.
    """
    if stream is None:
        return False
    encoding = (stream.encoding or "").lower().replace("-", "")
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8"


class LiveProgress(Progress):
    """Remembers what the run reports, and draws it. rich draws frames in a thread of its own."""

    def __init__(self, steps: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``monotonic`` gives the time in seconds."""
        super().__init__(steps)
        self.warnings = _LastWarnings()
        self._ended = False  # true in the last frame
        self._noted = False
        self._begun = 0
        self._monotonic = monotonic
        self._started = self._since = monotonic()
        self._rows: tuple[JsonDict, ...] = ()
        self._left: float | None = None
        self._awaited: tuple[str, ...] = ()
        self._states: tuple[tuple[str, str], ...] = ()
        # Live calls ``frame`` at once, so the attributes above must exist before.
        self.live = Live(
            get_renderable=self.frame,
            console=Console(  # which honours NO_COLOR by itself
                stderr=True,
                force_terminal=True,
                # A long line that other code prints is wrapped by the terminal. rich would write
                # line breaks into it, and a path in it could not be copied.
                soft_wrap=True,
                # Without these, rich would change such a line: "[b]", ":smile:" and numbers.
                markup=False,
                emoji=False,
                highlight=False,
            ),
            refresh_per_second=_FRAMES_A_SECOND,
            # Standard output may be a file, which must get what is printed to it.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def note(self, text: str) -> None:
        """Print one line above the view."""
        self._noted = True
        self.live.console.print(Text(masked(text)))

    def begin(self, step: int) -> None:
        """Show that so many steps are done, until the row of a step says more."""
        self._begun = step

    def end(self) -> None:
        """Have the last frame drawn without clocks, or removed if nothing has been shown yet."""
        self._ended = True
        self.live.transient = not (self._rows or self._noted or self.warnings.texts)

    def step(self, row: JsonDict) -> None:
        """Show the row of a step. A run that falls back to a checkpoint repeats steps."""
        self._left = self.seconds_left(row)
        self._rows = (*(old for old in self._rows if old["step"] < row["step"]), row)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what the context waits for, and for how long."""
        outer = self._awaited
        self._awaited, self._since = (*outer, masked(what)), self._monotonic()
        try:
            self.live.refresh()  # a wait that is shorter than a frame is seen too
            yield
        finally:
            self._awaited, self._since = outer, self._monotonic()

    def workers(self, states: Sequence[tuple[str, str]]) -> None:
        """Show how many workers of each role are in each state."""
        before = self._doing()
        self._states = tuple(states)
        if not self._awaited and self._doing() != before:
            self._since = self._monotonic()

    def frame(self) -> RenderableType:
        """What the terminal shows now."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row("progress", self._progress())
        if not self._ended:
            grid.add_row("now", self._now())
        if self._rows:
            row = self._rows[-1]
            for label, key in (
                ("reward", "reward/mean"),
                ("entropy cot", "entropy/cot/mean"),
                ("entropy image", "entropy/image/mean"),
            ):
                grid.add_row(label, self._curve(key))
            grid.add_row(
                "update",
                f"kl {number(row.get('kl/mean'))}  gradient norm {number(row.get('grad_norm'))}"
                f"  staleness {_short(row.get('staleness/mean'))}"
                f" (at most {_short(row.get('staleness/max'))})",
            )
            for stage, line in self._stages(row):
                grid.add_row(stage, line)
        for role, states in () if self._ended else self._roles():
            grid.add_row(role, states)
        for warning in self.warnings.texts:
            grid.add_row(Text("warning", style="bold yellow"), Text(warning, style="yellow"))
        return grid

    def _progress(self) -> RenderableType:
        done = self._rows[-1]["step"] if self._rows else self._begun
        line = Table.grid(padding=(0, 2, 0, 0))
        known = self._left is not None and not self._ended
        left = f"ETA {duration(self._left or 0)}" if known else ""
        line.add_row(
            f"step {done}/{self.steps}",
            ProgressBar(self.steps, done, width=_WIDTH // 2, complete_style="green"),
            left,
            f"{duration(self._monotonic() - self._started)} since the start",
        )
        return line

    def _now(self) -> Text:
        awaited = self._awaited  # read once: the run's thread sets it meanwhile
        what = awaited[-1] if awaited else self._doing()
        if not what:
            what = "between two steps" if self._states else "reading files and loading libraries"
        return Text.assemble((what, "green"), f"  {duration(self._monotonic() - self._since)}")

    def _doing(self) -> str:
        """What the busy workers do, learner first, such as ``learner: learning``."""
        for role in _BUSY:
            busy = {state for of, state in self._states if of == role} - _IDLE
            if busy:
                return f"{role}: {', '.join(sorted(busy))}"
        return ""

    def _curve(self, key: str) -> Text:
        values = [row.get(key) for row in self._rows]
        return Text.assemble(f"{number(values[-1]):>8}  ", (sparkline(values, _WIDTH), "cyan"))

    def _stages(self, row: JsonDict) -> Iterator[tuple[str, Text]]:
        """A bar for each stage of the last step that took time."""
        seconds = {name: row.get(f"seconds/{name}", 0.0) for name in STAGES}
        longest = max(seconds.values())
        for name, value in seconds.items():
            if longest and value >= 0.05:  # shorter ones would be shown as 0.0 s
                bar = "█" * max(1, round(_WIDTH * value / longest))
                yield f"{name} time", Text.assemble(f"{value:6.1f} s  ", (bar, "blue"))

    def _roles(self) -> Iterator[tuple[str, Text]]:
        """How many workers each role has, and how many of them are in each state."""
        for role in dict.fromkeys(role for role, _ in self._states):
            counts = Counter(state for of, state in self._states if of == role)
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            yield f"{role} workers" if role != "learner" else "learner ranks", Text(states)


class _LastWarnings(logging.Handler):
    """Keeps the texts of the last warnings, with secrets masked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: deque[str] = deque(maxlen=_WARNINGS)

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(masked(" ".join(record.getMessage().split())))

    @property
    def texts(self) -> list[str]:
        """The oldest first."""
        return list(self._texts)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A curve of at most ``width`` block characters, from the smallest value to the largest.

    A longer series is cut into ``width`` parts of about equal length, and each becomes the mean of
    its finite values. A part without one is a blank. Equal values are drawn at half height.
    """
    count = min(width, len(values))
    parts = [
        [
            value
            for value in values[len(values) * i // count : len(values) * (i + 1) // count]
            if value is not None and math.isfinite(value)
        ]
        for i in range(count)
    ]
    means = [sum(part) / len(part) if part else None for part in parts]
    known = [mean for mean in means if mean is not None]
    if not known:
        return " " * count
    low, span = min(known), max(known) - min(known)
    levels = len(_LEVELS) - 1
    return "".join(
        " "
        if mean is None
        else _LEVELS[round(levels * (mean - low) / span) if span else levels // 2]
        for mean in means
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
