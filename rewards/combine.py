"""The total reward of a trajectory from the results of several rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from policy.equality import all_equal
from policy.moments import deviation, mean
from policy.types import RewardFailure, RewardResult, Score


def combine(
    results: Mapping[str, Sequence[RewardResult]], weights: Mapping[str, float]
) -> list[RewardResult]:
    """Per trajectory the weighted sum of its rewards, with their unweighted values as detail.

    ``results[name]`` holds one result per trajectory, in the same order for every reward. A
    trajectory that any reward failed to score has failed, with the reasons of all that did: the
    sum of the others would be on another scale than its group's. So has one whose sum is beyond
    float64.
    """
    names = list(results)
    return [
        _total(dict(zip(names, row, strict=True)), weights)
        for row in zip(*results.values(), strict=True)
    ]


def normalise(results: Sequence[RewardResult]) -> list[RewardResult]:
    """Each score as its z-score among all of them, std unbiased; failures take no part.

    Scores that do not differ become 0.0: such a reward says nothing about the trajectories. So
    does a score that is not applicable, and it does not widen the spread of those that are.
    """
    values = _judged(results)
    centre, scale = (mean(values) if values else 0.0), normalising_scale(results)
    return [
        replace(r, value=2 * (r.value / 2 - centre / 2) * scale if r.applicable else 0.0)
        if isinstance(r, Score)
        else r
        for r in results
    ]


def normalising_scale(results: Sequence[RewardResult]) -> float:
    """What ``normalise`` multiplies scores by: 1 / their deviation, 0 where they do not differ.

    Here as there in halves, for the difference of two huge scores may be beyond float64.
    """
    values = _judged(results)
    return 0.0 if all_equal(values) else 0.5 / deviation([value / 2 for value in values])


def _judged(results: Sequence[RewardResult]) -> list[float]:
    return [r.value for r in results if isinstance(r, Score) and r.applicable]


def _total(results: Mapping[str, RewardResult], weights: Mapping[str, float]) -> RewardResult:
    values: dict[str, float] = {}
    reasons: list[str] = []
    for name, result in results.items():
        if isinstance(result, Score):
            values[name] = result.value
        else:
            reasons.append(f"{name}: {result.reason}")
    if reasons:
        return RewardFailure("; ".join(reasons))
    total = sum(weights[name] * value for name, value in values.items())
    return Score(total, values) if math.isfinite(total) else RewardFailure("total is not finite")
