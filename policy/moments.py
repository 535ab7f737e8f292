"""Mean and deviation of numbers of any size: neither sums nor squares leave the range."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SAFE_EXPONENT = 500  # the square of 2**500, some million times, is still a float64


def power_of_two_scale(values: Sequence[float]) -> float:
    """What to divide by before summing and squaring: 1 for all but huge values.

    A power of two, so that dividing rounds nothing.
    """
    exponent = math.frexp(max(map(abs, values), default=0.0))[1]
    return 2.0 ** max(0, exponent - _SAFE_EXPONENT)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    scale = power_of_two_scale(values)
    return math.fsum(value / scale for value in values) / len(values) * scale


def deviation(values: Sequence[float]) -> float:
    """Unbiased standard deviation of at least two values; infinity if it is beyond float64."""
    scale = power_of_two_scale(values)
    centre = mean(values) / scale
    squares = math.fsum((value / scale - centre) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1)) * scale
