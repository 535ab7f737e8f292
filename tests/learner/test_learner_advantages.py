"""Group-relative advantages (eq. 4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.advantages import (
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


def test_rewards_that_differ_by_rounding_are_equal() -> None:
    """0.1 + 0.2 and 0.3 are one reward: no residue for Adam to amplify, and no bonus."""
    assert group_advantages([0.1 + 0.2, 0.3, 0.3], 2) == [0.0, 0.0, 0.0]


def test_mean_reward_is_not_absence_of_variance() -> None:
    """An advantage of 0 inside a group that varies leaves the group its variance."""
    advantages = group_advantages([0.0, 0.5, 1.0], 2)
    assert advantages is not None
    assert advantages[1] == 0.0
    assert has_variance(advantages)
    assert not has_variance([0.0, None, 0.0])
