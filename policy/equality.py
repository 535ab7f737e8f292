"""When rewards count as equal: what separates them is rounding, and nothing to learn from."""

from __future__ import annotations

from collections.abc import Sequence

EQUAL_WITHIN = 1e-12  # relative; one score, from another batch or order of summing, differs so


def all_equal(values: Sequence[float]) -> bool:
    """Whether finite values differ by rounding at most; none at all are equal too."""
    return not values or max(values) - min(values) <= EQUAL_WITHIN * max(map(abs, values))
