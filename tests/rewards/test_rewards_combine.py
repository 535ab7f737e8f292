"""The total of several rewards."""

from __future__ import annotations

import pytest

from policy.types import RewardFailure, Score
from rewards.combine import combine


def test_the_total_is_the_weighted_sum() -> None:
    """2 * 0.5 - 1 * 0.25 = 0.75 for the first trajectory; the parts are kept unweighted."""
    results = {"a": [Score(0.5), Score(1.0)], "b": [Score(0.25), Score(0.0)]}
    assert combine(results, {"a": 2.0, "b": -1.0}) == [
        Score(0.75, {"a": 0.5, "b": 0.25}),
        Score(2.0, {"a": 1.0, "b": 0.0}),
    ]


def test_one_failed_reward_fails_its_trajectory_only() -> None:
    """With the reasons of all rewards that failed; the neighbour keeps its total."""
    results = {
        "a": [RewardFailure("too dark"), Score(1.0), RewardFailure("late")],
        "b": [RewardFailure("no face"), Score(1.0), Score(1.0)],
    }
    assert combine(results, {"a": 1.0, "b": 1.0}) == [
        RewardFailure("a: too dark; b: no face"),
        Score(2.0, {"a": 1.0, "b": 1.0}),
        RewardFailure("a: late"),
    ]


def test_rewards_must_agree_on_the_number_of_trajectories() -> None:
    """A missing result is an error, not a shorter batch."""
    with pytest.raises(ValueError, match="shorter"):
        combine({"a": [Score(1.0)] * 2, "b": [Score(1.0)]}, {"a": 1.0, "b": 1.0})
