"""Group-relative advantages (eq. 4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.algorithm.advantages import (
    default_minimum_survivors,
    group_advantages,
    has_variance,
)
from policy.equality import EQUAL_WITHIN

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)
REWARD = st.floats(-10.0, 10.0, allow_subnormal=False)
REWARDS = st.lists(REWARD, min_size=2, max_size=12)


def test_literal_group() -> None:
    """Rewards 1, 2, 3: mean 2, unbiased deviation 1."""
    assert group_advantages([1.0, 2.0, 3.0], 2) == [-1.0 / 1.0001, 0.0, 1.0 / 1.0001]


@pytest.mark.parametrize(
    ("reward", "size"), [(0.7, 8), (float(np.float32(0.7)), 8), (0.1, 3), (0.7, 6), (-3.0, 2)]
)
def test_equal_rewards_give_exactly_zero(reward: float, size: int) -> None:
    """Equal rewards have advantage 0.0, though their float mean need not be the reward: it is not
    for three times 0.1 in float64, nor for eight times 0.7 in float32."""
    assert np.mean([0.1] * 3) != 0.1
    assert group_advantages([reward] * size, 2) == [0.0] * size


def test_failed_trajectories_take_no_part() -> None:
    """A failure changes nothing for the survivors and stays a failure."""
    survivors = group_advantages([1.0, 2.0, 4.0], 2)
    assert survivors is not None
    assert group_advantages([1.0, None, 2.0, None, 4.0], 2) == [
        survivors[0],
        None,
        survivors[1],
        None,
        survivors[2],
    ]
    assert group_advantages([0.7, None, 0.7], 2) == [0.0, None, 0.0]


def test_group_with_too_few_survivors_is_dropped() -> None:
    """The minimum itself is enough; one less drops the group."""
    assert group_advantages([1.0, 2.0, None, None], 2) is not None
    assert group_advantages([1.0, None, None, None], 2) is None
    assert group_advantages([None, None], 2) is None
    assert group_advantages([], 2) is None


@pytest.mark.parametrize(("size", "minimum"), [(2, 2), (3, 2), (4, 2), (5, 3), (8, 4), (9, 5)])
def test_default_minimum(size: int, minimum: int) -> None:
    """Half the group, rounded up, and never under two."""
    assert default_minimum_survivors(size) == minimum


def test_bad_input_is_refused() -> None:
    """One survivor has no group; a reward that is not a number must arrive as a failure."""
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages([1.0, 2.0], 1)
    with pytest.raises(ValueError, match="finite"):
        group_advantages([1.0, math.nan], 2)


@PROPERTY
@given(rewards=REWARDS, seed=st.integers(0, 1000))
def test_permutation_equivariance_and_zero_mean(rewards: list[float], seed: int) -> None:
    """Advantages follow their trajectories under permutation, and sum to zero."""
    order = np.random.default_rng(seed).permutation(len(rewards))
    advantages = group_advantages(rewards, 2)
    permuted = group_advantages([rewards[index] for index in order], 2)
    assert advantages is not None
    assert permuted is not None
    np.testing.assert_allclose(
        np.array(permuted, float), np.array(advantages, float)[order], atol=1e-9
    )
    assert abs(float(np.sum(np.array(advantages, float)))) < 1e-9
    rounding = EQUAL_WITHIN * max(abs(reward) for reward in rewards)
    assert has_variance(advantages) == (max(rewards) - min(rewards) > rounding)


def neighbours(reward: float, size: int = 8) -> list[float]:
    """``size`` rewards, alternately a float32 and the next one above it."""
    low = np.float32(reward)
    high = np.nextafter(low, np.float32(np.inf), dtype=np.float32)
    return [float(low), float(high)] * (size // 2)


@pytest.mark.parametrize("reward", [0.7, -0.7, 1.0, 1e-9, 1e13, 3e38])
def test_rewards_one_float32_unit_apart_are_equal(reward: float) -> None:
    """What separates them is the rounding of the model that scored them: advantages are exactly
    0, where 0.7 would have had 3.7e-4, and the group counts as one without variance."""
    advantages = group_advantages(neighbours(reward), 2)
    assert advantages == [0.0] * 8
    assert not has_variance(advantages)


def test_rewards_that_differ_by_float64_rounding_are_equal() -> None:
    """0.1 + 0.2 and 0.3 are one reward: no residue for Adam to amplify, and no bonus."""
    assert group_advantages([0.1 + 0.2, 0.3, 0.3], 2) == [0.0, 0.0, 0.0]


def test_small_differences_still_count() -> None:
    """1e-4 at size 1 is a thousand float32 units; a tenth of 1e-9 is a tenth. The advantages are
    those of eq. 4: 0.5e-4 / (0.5e-4 sqrt(2) + 1e-4), and 0.5e-10 / 1e-4 but for a millionth."""
    assert group_advantages([1.0, 1.0001], 2) == pytest.approx([-0.2928932, 0.2928932], rel=1e-6)
    assert group_advantages([1.0e-9, 1.1e-9], 2) == pytest.approx([-5e-7, 5e-7], rel=1e-5)


def test_a_sum_that_cancels_has_the_rounding_of_its_parts() -> None:
    """1000.00006 - 1000 and 1000 - 1000: 6e-5 is one float32 unit of 1000, and nothing at all; of
    rewards around 1e-4 it would be much. Half a unit of 1000 more on each side counts again."""
    totals = [first - 1000.0 for first in neighbours(1000.0, 4)]
    assert max(totals) == 2.0**-14
    assert group_advantages(totals, 2, size=1000.0) == [0.0] * 4
    assert has_variance(group_advantages(totals, 2) or [])
    assert has_variance(group_advantages([0.0, 0.5, 0.0, 0.5], 2, size=1000.0) or [])


def test_huge_rewards_have_the_advantages_of_small_ones() -> None:
    """Neither the mean nor the squares of 1e308 leave the range of float64: at that size, and at
    1e13, rewards of -1, 0 and 1 times it have the advantages -1, 0 and 1."""
    for size in (1e13, 1e200, 1e308, 1.7e308):
        assert group_advantages([-size, 0.0, size], 2) == [-1.0, 0.0, 1.0]
        assert group_advantages([size] * 8, 2) == [0.0] * 8
    (low, high) = group_advantages([1.0e308, 1.7e308], 2) or []
    assert (low, high) == pytest.approx((-(0.5**0.5), 0.5**0.5))


@PROPERTY
@given(rewards=REWARDS, exponent=st.integers(-60, 900))
def test_equality_does_not_know_the_scale(rewards: list[float], exponent: int) -> None:
    """Rewards times a power of two vary exactly when the rewards do."""
    scaled = [math.ldexp(reward, exponent) for reward in rewards]
    varies = [has_variance(group_advantages(group, 2) or []) for group in (rewards, scaled)]
    assert varies[0] == varies[1]


def test_mean_reward_is_not_absence_of_variance() -> None:
    """An advantage of 0 inside a group that varies leaves the group its variance."""
    advantages = group_advantages([0.0, 0.5, 1.0], 2)
    assert advantages is not None
    assert advantages[1] == 0.0
    assert has_variance(advantages)
    assert not has_variance([0.0, None, 0.0])
