"""The total reward of a trajectory from the results of several rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policy.types import RewardFailure, RewardResult, Score


def combine(
    results: Mapping[str, Sequence[RewardResult]], weights: Mapping[str, float]
) -> list[RewardResult]:
    """Per trajectory the weighted sum of its rewards, with their unweighted values as detail.

    ``results[name]`` holds one result per trajectory, in the same order for every reward. A
    trajectory that any reward failed to score has failed, with the reasons of all that did: the
    sum of the others would be on another scale than its group's.
    """
    names = list(results)
    return [
        _total(dict(zip(names, row, strict=True)), weights)
        for row in zip(*results.values(), strict=True)
    ]


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
    return Score(sum(weights[name] * value for name, value in values.items()), values)
