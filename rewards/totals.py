"""The total reward of a trajectory, and the totals that training uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policy.equality import all_equal
from policy.moments import deviation, mean
from policy.types import RewardResult, Score
from rewards.config import RewardConfig
from rewards.scored_group import ScoredGroup


def weighted_totals(
    results: Mapping[str, Sequence[RewardResult]], weights: Mapping[str, float]
) -> list[float | None]:
    """The weighted sum of each trajectory's rewards; None for a trajectory that has failed.

    ``results[name]`` holds one result per trajectory, in the same order for every reward. A
    trajectory that any reward failed to score has failed: a sum of the others would be on another
    scale than its group's totals. So has one whose sum is beyond the range of float64.
    """
    factors = [weights[name] for name in results]
    return [_total(row, factors) for row in zip(*results.values(), strict=True)]


def normalise(results: Sequence[RewardResult]) -> list[RewardResult]:
    """Replace each score by its z-score among all scores. Failures stay as they are.

    The standard deviation is the unbiased one. When all scores are equal, each becomes 0.0: the
    reward does not tell the trajectories apart. A score that is not applicable becomes 0.0 too, and
    does not count in mean and deviation.
    """
    values = _judged_values(results)
    centre, scale = (mean(values) if values else 0.0), normalising_scale(results)
    return [
        replace(r, value=2 * (r.value / 2 - centre / 2) * scale if r.applicable else 0.0)
        if isinstance(r, Score)
        else r
        for r in results
    ]


def normalising_scale(results: Sequence[RewardResult]) -> float:
    """The factor of ``normalise``: 1 / the standard deviation, or 0 when all scores are equal.

    Both functions compute with halved scores, because the difference of two huge scores may be
    beyond the range of float64.
    """
    values = _judged_values(results)
    return 0.0 if all_equal(values) else 0.5 / deviation([value / 2 for value in values])


@dataclass(frozen=True)
class TrainingTotals:
    """The totals from which a group's advantages are computed. None where a reward failed."""

    values: tuple[float | None, ...]
    size: float  # the largest |weight x reward| in them, which bounds their rounding error


def training_totals(
    scored: Sequence[ScoredGroup], configs: Sequence[RewardConfig]
) -> list[TrainingTotals]:
    """The totals that each group is trained on.

    A reward with ``normalise`` enters the sum with its z-score over the trajectories of all groups.
    Without such a reward, they are the group's own totals.
    """
    results: dict[str, list[RewardResult]] = {}
    factors: dict[str, float] = {}
    for config in configs:
        flat = [result for group in scored for result in group.results[config.name]]
        results[config.name] = normalise(flat) if config.normalise else flat
        # The factor of the value before its mean is subtracted: the difference keeps that value's
        # rounding error.
        scale = normalising_scale(flat) if config.normalise else 1.0
        factors[config.name] = abs(config.weight) * scale
    if not any(config.normalise for config in configs):
        return [TrainingTotals(group.totals, _largest_part(group, factors)) for group in scored]
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


def _judged_values(results: Sequence[RewardResult]) -> list[float]:
    return [r.value for r in results if isinstance(r, Score) and r.applicable]


def _total(row: Sequence[RewardResult], factors: Sequence[float]) -> float | None:
    parts = [
        factor * result.value
        for factor, result in zip(factors, row, strict=True)
        if isinstance(result, Score)
    ]
    total = sum(parts)
    return total if len(parts) == len(row) and math.isfinite(total) else None
