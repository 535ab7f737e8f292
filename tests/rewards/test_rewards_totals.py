"""The total of several rewards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.types import RewardFailure, Score
from rewards.totals import normalise, weighted_totals


def test_the_total_is_the_weighted_sum() -> None:
    """2 * 0.5 - 1 * 0.25 = 0.75 for the first trajectory."""
    results = {"a": [Score(0.5), Score(1.0)], "b": [Score(0.25), Score(0.0)]}
    assert weighted_totals(results, {"b": -1.0, "a": 2.0}) == [0.75, 2.0]


def test_one_failed_reward_fails_its_trajectory_only() -> None:
    """The neighbour keeps its total."""
    results = {
        "a": [RewardFailure("too dark"), Score(1.0), RewardFailure("late")],
        "b": [RewardFailure("no face"), Score(1.0), Score(1.0)],
    }
    assert weighted_totals(results, {"a": 1.0, "b": 1.0}) == [None, 2.0, None]


def test_rewards_must_agree_on_the_number_of_trajectories() -> None:
    """A missing result is an error, not a shorter batch."""
    with pytest.raises(ValueError, match="shorter"):
        weighted_totals({"a": [Score(1.0)] * 2, "b": [Score(1.0)]}, {"a": 1.0, "b": 1.0})


def test_a_z_score_is_taken_over_the_survivors() -> None:
    """1, 3 and 5 have mean 3 and unbiased deviation 2; the failure stays and counts for nothing."""
    failure = RewardFailure("late")
    results = [Score(1.0, {"part": 7.0}), failure, Score(3.0), Score(5.0)]
    assert normalise(results) == [Score(-1.0, {"part": 7.0}), failure, Score(0.0), Score(1.0)]


def test_a_total_beyond_the_range_has_failed() -> None:
    """Two rewards of 1e308 have no finite sum; their difference has."""
    results = {"a": [Score(1e308)], "b": [Score(1e308)]}
    assert weighted_totals(results, {"a": 1.0, "b": 1.0}) == [None]
    assert weighted_totals(results, {"a": 1.0, "b": -1.0}) == [0.0]


def test_a_z_score_of_huge_scores() -> None:
    """-1, 0 and 1 times the largest float64 have deviation that number and these z-scores."""
    huge = 1.7e308
    scores = normalise([Score(-huge), Score(0.0), Score(huge)])
    assert [s.value for s in scores if isinstance(s, Score)] == pytest.approx([-1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    "values", [[], [0.7], [0.0, 0.0], [0.1 + 0.2, 0.3, 0.3], [0.7, 0.7 + 2.0**-24], [1e308] * 3]
)
def test_scores_without_spread_contribute_nothing(values: list[float]) -> None:
    """Also a single one, none at all, and those that differ by rounding alone."""
    assert normalise([Score(value) for value in values]) == [Score(0.0)] * len(values)


def test_what_is_not_applicable_contributes_nothing() -> None:
    """The 0 of a reward that does not judge a prompt moves neither mean nor spread."""
    silent = Score(0.0, applicable=False)
    assert normalise([Score(4.0), silent, Score(6.0), Score(8.0)]) == [
        Score(-1.0),
        silent,
        Score(0.0),
        Score(1.0),
    ]
    assert normalise([silent, silent]) == [silent, silent]


@given(
    values=st.lists(st.integers(-100, 100), min_size=2, max_size=8, unique=True),
    scale=st.floats(0.01, 100),
    shift=st.floats(-100, 100),
)
def test_a_z_score_does_not_know_scale_and_offset(
    values: list[int], scale: float, shift: float
) -> None:
    """That is what it is for: rewards of other ranges count alike."""
    plain = normalise([Score(float(value)) for value in values])
    moved = normalise([Score(scale * value + shift) for value in values])
    assert [s.value for s in moved] == pytest.approx([s.value for s in plain], rel=1e-6, abs=1e-6)
