"""Confidence intervals by the bootstrap over prompts.

What is sampled for one prompt is not independent. A resample therefore draws whole prompts: as many
as there are, with replacement, each with all of its observations. The interval is between the
percentiles of the statistic over the resamples. It speaks of other prompts, and not of another
training run: a model that is trained with another seed differs by more.

Shape legend: N = observations, P = prompts, K = numbers of the statistic, R = resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number and the ends of its interval, which are NaN where none can be given."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(statistic: Callable[..., Array], *prompts: NDArray[Any]) -> list[Interval]:
    """The K numbers of a statistic with their intervals of ``LEVEL``.

    Each of ``prompts`` is a sample: the prompt of each of its N observations. ``statistic`` takes
    the rows of each sample, as indices of observations, and returns K numbers. All samples get the
    same prompts in a resample, so that a difference of two samples is a paired one. Prompts that
    are not in every sample are left out.

    A resample for which a number is NaN does not count for this number. There is no interval for
    a number that is NaN itself, nor from fewer than two prompts. The resamples are the same in
    every call with as many prompts.
    """
    shared = reduce(np.intersect1d, prompts[1:], np.unique(prompts[0]))
    rows = [[np.flatnonzero(prompt_N == one) for one in shared] for prompt_N in prompts]

    def of_prompts(places: Integers) -> Array:
        return statistic(*(_joined(sample, places) for sample in rows))

    value_K = of_prompts(np.arange(len(shared)))
    if len(shared) < 2:
        return [Interval(float(value), float("nan"), float("nan")) for value in value_K]
    generator = np.random.Generator(np.random.Philox(0))
    choice_RP = generator.integers(len(shared), size=(RESAMPLES, len(shared)))
    value_RK = np.array([of_prompts(choice_P) for choice_P in choice_RP])
    return [_interval(float(value), value_RK[:, k]) for k, value in enumerate(value_K)]


def _joined(rows: list[Integers], places: Integers) -> Integers:
    return np.concatenate([np.zeros(0, np.int64), *(rows[place] for place in places)])


def _interval(value: float, value_R: Array) -> Interval:
    known = value_R[np.isfinite(value_R)]
    if not np.isfinite(value) or len(known) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
