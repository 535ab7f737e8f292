"""What the figures of analyses share: colours, text, and files as PNG and SVG.

matplotlib is the extra ``[analysis]``. It is imported only where a figure is drawn.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.bootstrap import Interval
from policy.disk import write_whole
from policy.errors import UserError
from policy.extras import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008): colours that the colour-blind tell apart. Markers
# tell settings apart in grey as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#8c8c8c"


def check_matplotlib() -> None:
    """Raise ``UserError`` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"figures need matplotlib: {install_command('analysis')}")


def styles(settings: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour and the marker of each setting, the same in all figures."""
    return dict(zip(settings, cycle(zip(_COLOURS, _MARKERS, strict=True)), strict=False))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Leave out the frame where it has no scale, and show a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def number(interval: Interval) -> str:
    """A number with its interval, such as ``-0.31 [-0.45, -0.12]``; ``unknown`` for NaN."""
    if interval.value != interval.value:
        return "unknown"
    if interval.low != interval.low:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem.png`` and ``stem.svg``, which are the same bytes for the same figure.

    Raises ``NotWritten``.
    """
    import matplotlib

    for kind in ("png", "svg"):
        picture = io.BytesIO()
        # Without these settings an SVG has random ids and the date.
        with matplotlib.rc_context({"svg.hashsalt": "eg-grpo"}):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(picture, format=kind, dpi=150, metadata=metadata)
        write_whole(stem.with_name(f"{stem.name}.{kind}"), picture.getvalue())
