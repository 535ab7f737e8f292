"""When rewards count as equal: what separates them is rounding, and nothing to learn from."""

from __future__ import annotations

from collections.abc import Sequence

# Relative. Reward models score in float32: one image, scored in another batch or summed in another
# order, comes out a few units in the last place apart. Two images that a model tells apart at all
# are a thousand times further from each other.
EQUAL_WITHIN = 8 * 2.0**-23


def all_equal(values: Sequence[float], size: float | None = None) -> bool:
    """Whether finite values differ by float32 rounding at most; none at all are equal too.

    ``size`` is the magnitude of what the values were computed from, by default their own: the sum
    of 1000.0001 and -1000 is small and has the rounding of 1000.
    """
    if not values:
        return True
    size = max(map(abs, values)) if size is None else size
    # In halves: the difference of two numbers near the end of the range is beyond it.
    return max(values) / 2 - min(values) / 2 <= EQUAL_WITHIN / 2 * size
