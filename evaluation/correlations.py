"""Correlations of two quantities, and the removal of what prompts add to both.

Shape legend: N = observations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pearson(x_N: Array, y_N: Array) -> float:
    """Pearson's correlation; NaN for fewer than two values, or where one side is constant."""
    if len(x_N) < 2 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return float("nan")
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    return float(np.clip((x_N @ y_N) / np.sqrt((x_N @ x_N) * (y_N @ y_N)), -1.0, 1.0))


def spearman(x_N: Array, y_N: Array) -> float:
    """Spearman's correlation, which is Pearson's of the ranks. Equal values share their rank."""
    return pearson(ranks(x_N), ranks(y_N))


def ranks(x_N: Array) -> Array:
    """The ranks from 1 on, N; equal values have the mean of the ranks that they take."""
    _, place_N, count_K = np.unique(x_N, return_inverse=True, return_counts=True)
    last_K = count_K.cumsum()
    rank_N: Array = (last_K - (count_K - 1) / 2)[place_N]
    return rank_N


def centred(x_N: Array, prompt_N: NDArray[np.int64]) -> Array:
    """The values minus the mean of their prompt, N; what differs between prompts is gone.

    They are rounded to 12 digits behind the point. Values that differ by the rounding of the mean
    alone would else have different ranks.
    """
    _, place_N, count_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    mean_P = np.bincount(place_N, weights=x_N) / count_P
    difference_N: Array = np.round(x_N - mean_P[place_N], 12)
    return difference_N
