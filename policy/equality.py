"""Decides when rewards count as equal: when float32 rounding alone explains their difference.

Equal rewards teach nothing. Without this test, rounding would be scaled up to an advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

# A relative tolerance: 8 units in the last place (ulps) of float32. A reward model that scores the
# same image in another batch, or sums in another order, returns a value that differs by a few ulps.
# The values of two images that the model can tell apart differ by a thousand times more.
EQUAL_WITHIN = 8 * 2.0**-23


def all_equal(values: Sequence[float], size: float | None = None) -> bool:
    """Whether finite values differ by no more than float32 rounding. An empty list is equal too.

    ``size`` is the largest magnitude in the computation of the values, by default their own
    largest magnitude. It matters for sums: 1000.0001 - 1000 is small, but its rounding error is
    that of 1000.
    """
    if not values:
        return True
    size = max(map(abs, values)) if size is None else size
    # Both sides are halved. The full difference of two numbers near the largest float overflows.
    return max(values) / 2 - min(values) / 2 <= EQUAL_WITHIN / 2 * size
