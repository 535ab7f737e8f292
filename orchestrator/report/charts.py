"""Charts for the report, as SVG text. The same numbers give the same bytes.

Labels are text elements, not outlines: they take the page's font, and the file stays small. A line
has a gap where its value is NaN or None.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

Array = NDArray[np.float64]

_COLOURS = ("#2f66b0", "#d9822b", "#3d9970", "#8a63b5", "#5fb0c4", "#8d96a0", "#c2484d", "#b59a2e")
_INK, _FAINT = "#5b6570", "#e4e7eb"
# The most points of a line. A chart is about 480 pixels wide, so more would not show.
_MAX_POINTS = 240
# The most steps of a stacked chart.
_MAX_BARS = 120
_FEW = 20  # a line of at most so many points has a mark at each and is not smoothed
_MAX_ERROR_BARS = 40  # more points get a band instead of error bars


@dataclass(frozen=True)
class Series:
    """One quantity over training steps. All sequences have the same length."""

    label: str
    steps: Sequence[float]
    values: Sequence[float | None]
    errors: Sequence[float | None] = ()  # standard errors; only ``error_bar_chart`` needs them

    @property
    def present(self) -> bool:
        """Whether any value is a finite number."""
        return bool(np.isfinite(_array(self.values)).any())


def line_chart(series: Sequence[Series]) -> str:
    """Lines over steps. A line of many points is faint, with its moving average drawn over it."""

    def draw(axes: Axes) -> None:
        for one, colour in _coloured(series):
            steps, raw = _array(one.steps), _array(one.values)
            if np.isfinite(raw).sum() <= _FEW:
                axes.plot(steps, raw, color=colour, lw=1.4, marker="o", ms=3, label=one.label)
                continue
            axes.plot(*thin(steps, raw, _MAX_POINTS), color=colour, lw=0.8, alpha=0.3)
            smooth = moving_average(raw, 2 * (len(raw) // 60) + 3)
            axes.plot(*thin(steps, smooth, _MAX_POINTS), color=colour, lw=1.6, label=one.label)

    return _render(draw, legend=len(series) > 1)


def error_bar_chart(series: Sequence[Series]) -> str:
    """Values over steps with plus and minus one standard error: bars, or a band if many."""

    def draw(axes: Axes) -> None:
        for one, colour in _coloured(series):
            steps, values = _array(one.steps), _array(one.values)
            errors = np.nan_to_num(_array(one.errors))
            if len(steps) > _MAX_ERROR_BARS:
                axes.fill_between(
                    steps, values - errors, values + errors, color=colour, alpha=0.2, lw=0
                )
                axes.plot(steps, values, color=colour, lw=1.4, label=one.label)
                continue
            axes.errorbar(
                steps,
                values,
                yerr=errors,
                color=colour,
                label=one.label,
                lw=1.2,
                marker="o",
                ms=3.5,
                capsize=2.5,
                elinewidth=1,
            )

    return _render(draw, legend=len(series) > 1)


def stacked_chart(series: Sequence[Series]) -> str:
    """The parts of a whole at each step, one on top of the other. A missing part counts as 0.

    All series must have the same steps. With many steps, neighbours are averaged.
    """

    def draw(axes: Axes) -> None:
        steps = thin(_array(series[0].steps), _array(series[0].steps), _MAX_BARS)[0]
        middle = (steps[1:] + steps[:-1]) / 2
        edges = np.concatenate([[steps[0] - 0.5], middle, [steps[-1] + 0.5]])
        base = np.zeros(len(steps))
        for one, colour in _coloured(series):
            top = base + thin(_array(one.steps), np.nan_to_num(_array(one.values)), _MAX_BARS)[1]
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, lw=0, label=one.label)
            base = top
        axes.set_ylim(0, float(base.max()) * 1.05 or 1)

    return _render(draw, legend=True, wide=True)


def moving_average(values: Array, window: int) -> Array:
    """Centred mean over ``window`` values, fewer at the ends. NaN stays NaN and enters no mean."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    reach = window // 2
    total = np.convolve(np.where(known, values, 0.0), kernel)[reach : reach + len(values)]
    count = np.convolve(known.astype(float), kernel)[reach : reach + len(values)]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def thin(steps: Array, values: Array, limit: int) -> tuple[Array, Array]:
    """Reduce to at most ``limit`` points: each is the mean of the same number of neighbours.

    NaN enters no mean. A point is NaN if all its values are.
    """
    width = math.ceil(len(values) / limit)
    starts = np.arange(0, len(values), width)
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    count = np.add.reduceat(known.astype(float), starts)
    sizes = np.diff(np.append(starts, len(values)))
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.add.reduceat(steps, starts) / sizes, means


def _coloured(series: Sequence[Series]) -> list[tuple[Series, str]]:
    return [(one, _COLOURS[place % len(_COLOURS)]) for place, one in enumerate(series)]


def _array(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _render(draw: Callable[[Axes], None], legend: bool, wide: bool = False) -> str:
    width, height = (11.4, 2.5) if wide else (5.6, 2.6)
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "eg-grpo",
            "text.parse_math": False,
            "font.size": 8,
            "font.sans-serif": ["DejaVu Sans"],
        }
    ):
        figure = Figure(figsize=(width, height))
        margin = 0.62 / width
        axes = figure.add_axes((margin, 0.13, 0.985 - margin, 0.72 if legend else 0.83))
        draw(axes)
        _restrain(axes)
        if legend:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1.01),
                ncols=8 if wide else 4,
                frameon=False,
                borderpad=0,
                borderaxespad=0.2,
                handlelength=1.2,
                labelcolor=_INK,
            )
        text = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
    return _inline(text.getvalue())


def _restrain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.grid(axis="y", color=_FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK, pad=4)
    axes.margins(x=0.015)
    lowest, highest = axes.dataLim.intervaly
    if lowest == highest:  # show a flat line with 0, or the axis would magnify rounding
        axes.set_ylim(*sorted((0, 2 * lowest or 1)))
    first, last = axes.dataLim.intervalx
    if last - first < 2:
        axes.set_xlim(first - 1, last + 1)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    decimals = ScalarFormatter(useOffset=False)
    decimals.set_scientific(False)
    axes.yaxis.set_major_formatter(decimals)


def _inline(svg: str) -> str:
    """The ``<svg>`` element without ids and namespace addresses, which HTML does not need."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", element)
