"""The total reward of a trajectory from the results of several rewards, and what is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policy.equality import all_equal
from policy.moments import deviation, mean
from policy.types import RewardFailure, RewardResult, Score
from rewards.config import RewardConfig
from rewards.scored_group import ScoredGroup


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


def weighted_totals(
    results: Mapping[str, Sequence[RewardResult]], weights: Mapping[str, float]
) -> list[float | None]:
    """The totals of ``combine`` as plain numbers; None where the trajectory has failed."""
    totals = combine(results, weights)
    return [total.value if isinstance(total, Score) else None for total in totals]


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


@dataclass(frozen=True)
class TrainingTotals:
    """The totals that a group's advantages are made of; None where a reward failed."""

    values: tuple[float | None, ...]
    size: float  # the largest |weight x reward| in them, which bounds their rounding


def training_totals(
    scored: Sequence[ScoredGroup], configs: Sequence[RewardConfig]
) -> list[TrainingTotals]:
    """The totals that each group is trained on.

    They are the group's own totals, unless a reward is to be normalised: then its z-score over the
    trajectories of all groups stands in the sum in place of its value.
    """
    results: dict[str, list[RewardResult]] = {}
    factors: dict[str, float] = {}
    for config in configs:
        flat = [result for group in scored for result in group.results[config.name]]
        results[config.name] = normalise(flat) if config.normalise else flat
        # Of the value before its mean was taken off, whose rounding the difference keeps.
        scale = normalising_scale(flat) if config.normalise else 1.0
        factors[config.name] = abs(config.weight) * scale
    totals = iter(weighted_totals(results, {config.name: config.weight for config in configs}))
    return [
        TrainingTotals(tuple(next(totals) for _ in group.totals), _largest_part(group, factors))
        for group in scored
    ]


def _largest_part(group: ScoredGroup, factors: Mapping[str, float]) -> float:
    parts = [
        factor * abs(result.value)
        for name, factor in factors.items()
        for result, total in zip(group.results[name], group.totals, strict=True)
        if isinstance(result, Score) and total is not None
    ]
    return max(parts, default=0.0)


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
