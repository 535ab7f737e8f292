"""Group-relative advantages (eq. 4), in float64 with plain Python and NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from policy.equality import all_equal
from policy.moments import power_of_two_scale

# The authors' trainer adds it to the standard deviation. Without it, nearly equal rewards would get
# advantages as large as clearly different ones.
STD_EPSILON = 1e-4


def default_minimum_survivors(group_size: int) -> int:
    """Half the group, rounded up, and never under 2 (one trajectory has no relative advantage)."""
    return max(2, math.ceil(group_size / 2))


def group_advantages(
    rewards: Sequence[float | None], minimum_survivors: int, size: float | None = None
) -> list[float | None] | None:
    """A_i = (r_i - mean) / (std + 1e-4) over one prompt's group (eq. 4), std unbiased.

    ``None`` marks a failed trajectory: it takes no part in mean and std and stays ``None``.
    Returns ``None`` when fewer than ``minimum_survivors`` trajectories survive: the group is
    dropped. Rewards that differ by no more than float32 rounding (``all_equal``, with its ``size``)
    give advantages of exactly 0.0, as Corollary 5.1 needs. Their difference is noise, which Adam
    would amplify to a full step.

    Raises ValueError when ``minimum_survivors`` is under 2 or a reward is not finite.
    """
    if minimum_survivors < 2:
        raise ValueError(f"minimum_survivors must be at least 2, not {minimum_survivors}")
    survivors = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if not np.isfinite(survivors).all():
        raise ValueError(f"rewards must be finite; a failed one is None: {list(rewards)}")
    if len(survivors) < minimum_survivors:
        return None
    if all_equal(survivors.tolist(), size):
        return [None if reward is None else 0.0 for reward in rewards]
    scale = power_of_two_scale(survivors.tolist())
    scaled = survivors / scale
    mean, spread = float(scaled.mean()), float(scaled.std(ddof=1)) + STD_EPSILON / scale
    return [None if reward is None else (reward / scale - mean) / spread for reward in rewards]


def has_variance(advantages: Sequence[float | None]) -> bool:
    """Whether the rewards behind a group's advantages differed. Only such groups get a bonus.

    This is asked of the whole group, because one trajectory does not tell: in a group that has
    variance, a trajectory whose reward is the mean has advantage 0 too.
    """
    return any(advantage is not None and advantage != 0.0 for advantage in advantages)
