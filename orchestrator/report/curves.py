"""The lines of the charts: one quantity over steps, of one run or of several that differ by seed.

A line has a gap where its value is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.summary import estimate
from policy.types import JsonDict

Array = NDArray[np.float64]

# The most points of a line. A chart is about 480 pixels wide, so more would not show.
MAX_POINTS = 240


@dataclass(frozen=True)
class Series:
    """One quantity over training steps. All sequences have the same length."""

    label: str
    steps: Sequence[float]
    values: Sequence[float | None]
    errors: Sequence[float | None] = ()  # standard errors; empty if there are none

    @property
    def present(self) -> bool:
        """Whether any value is a finite number."""
        return bool(np.isfinite(_array(self.values)).any())


def over_seeds(label: str, runs: Sequence[Series]) -> Series:
    """The mean over runs that differ by their seed, with its standard error, at common steps.

    A single run keeps its own values and errors.
    """
    if len(runs) == 1:
        return Series(label, runs[0].steps, runs[0].values, runs[0].errors)
    by_step = [dict(zip(run.steps, run.values, strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, by_step)))
    found = []
    for step in steps:
        values = [value for run in by_step if (value := run[step]) is not None]
        found.append(estimate(values) if len(values) == len(runs) else None)
    return Series(
        label,
        steps,
        [None if one is None else one.mean for one in found],
        [None if one is None else one.standard_error for one in found],
    )


def drawn(series: Series, limit: int = MAX_POINTS) -> JsonDict:
    """The series as the page takes it: thinned to ``limit`` points, with five digits.

    ``reach`` is how far from a point, in steps, the page may show its value: half of the distance
    between two points if each is the mean of several steps, else half a step.
    """
    steps, values = _array(series.steps), _array(series.values)
    thinned, means = thin(steps, values, limit)
    apart = float(np.median(np.diff(thinned))) if 1 < len(thinned) < len(steps) else 1.0
    line: JsonDict = {
        "label": series.label,
        "steps": _rounded(thinned),
        "values": _rounded(means),
        "reach": apart / 2,
    }
    if len(series.errors):
        line["errors"] = _rounded(thin(steps, _array(series.errors), limit)[1])
    return line


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


def _array(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _rounded(values: Array) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
