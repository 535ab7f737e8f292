"""Mean and standard deviation of float64 numbers, without overflow for very large numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SAFE_EXPONENT = 500  # the sum of some million squares of 2**500 is still a finite float64


def power_of_two_scale(values: Sequence[float]) -> float:
    """The number to divide the values by before they are squared and summed.

    It is 1 unless a value is huge. It is a power of two, so the division does not round.
    """
    exponent = math.frexp(max(map(abs, values), default=0.0))[1]
    return 2.0 ** max(0, exponent - _SAFE_EXPONENT)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    scale = power_of_two_scale(values)
    return math.fsum(value / scale for value in values) / len(values) * scale


def deviation(values: Sequence[float]) -> float:
    """Unbiased standard deviation of at least two values; infinity if float64 cannot hold it."""
    scale = power_of_two_scale(values)
    centre = mean(values) / scale
    squares = math.fsum((value / scale - centre) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1)) * scale
