"""Means over prompts with standard errors that respect the grouping."""

from __future__ import annotations

import math

import pytest

from evaluation.summary import estimate, paired_difference, prompt_means, summarise
from policy.types import Prompt, RewardFailure, Score
from rewards.scored_group import ScoredGroup, failure_reasons
from tests.training_records import check_keys


def group(text: str, *values: float | None, task: str = "color") -> ScoredGroup:
    results = tuple(
        RewardFailure("no image") if value is None else Score(value, {"strict": float(value == 1)})
        for value in values
    )
    return ScoredGroup(Prompt(id=text, text=text, task_type=task), values, {"shapes": results})


def test_the_standard_error_is_over_prompts_not_samples() -> None:
    """Prompt means 0.2 and 0.6: mean 0.4, standard error 0.2; eight samples do not shrink it."""
    row = summarise([group("a", 0.1, 0.3, 0.1, 0.3), group("b", 0.5, 0.7, 0.5, 0.7)])
    assert row["reward/mean"] == pytest.approx(0.4)
    assert row["reward/standard_error"] == pytest.approx(0.2)
    assert (row["num_prompts"], row["num_samples"], row["num_failed"]) == (2, 8, 0)


def test_failures_leave_the_mean_and_are_counted() -> None:
    """A failed sample is no 0; a prompt of which all failed has no mean."""
    groups = [group("a", 1.0, None), group("b", None, None, task="spatial")]
    row = summarise(groups)
    assert row["prompt_means"] == [1.0, None]
    assert row["reward/mean"] == 1.0
    assert row["reward/standard_error"] is None  # one prompt has no spread
    assert row["num_failed"] == 3
    assert row["by_task"] == {"color": 1.0}
    assert row["detail/shapes/strict"] == 1.0
    assert failure_reasons(groups) == {"shapes: no image": 3}


def test_a_reward_has_a_mean_of_what_it_judged_and_details_of_its_own() -> None:
    """A 0 that is not applicable is in the total alone; equal names of details stay apart."""
    results = {
        "git": (Score(0.5, {"share": 0.25}), Score(0.0, {"share": 0.0}, applicable=False)),
        "hps": (Score(1.0, {"share": 0.75}), Score(1.0, {"share": 0.25})),
        "none": (Score(1.0, applicable=False), RewardFailure("no image")),
    }
    row = summarise([ScoredGroup(Prompt("a", "a", "color"), (2.5, None), results)])
    check_keys(row, "evaluations.jsonl")
    assert (row["reward/git"], row["reward/hps"], row["reward/none"]) == (0.5, 1.0, None)
    assert (row["detail/git/share"], row["detail/hps/share"]) == (0.25, 0.5)
    assert row["reward/mean"] == 2.5


def test_a_paired_difference_ignores_what_prompts_share() -> None:
    """A constant gain over very different prompts has standard error 0."""
    difference, prompts = paired_difference([0.1, 0.9, None], [0.3, 1.1, 0.5])
    assert prompts == 2
    assert difference.mean == pytest.approx(0.2)
    assert difference.standard_error == pytest.approx(0.0, abs=1e-12)


def test_estimates_of_nothing_and_of_one() -> None:
    """No value: NaN; one value: a mean without an error."""
    assert math.isnan(estimate([]).mean)
    assert estimate([2.0]).mean == 2.0
    assert math.isnan(estimate([2.0]).standard_error)
    assert prompt_means([]) == []
