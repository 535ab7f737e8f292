"""A group with what every reward gave its trajectories, and the views that metrics take of some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policy.types import Prompt, RewardFailure, RewardResult, Score


@dataclass(frozen=True)
class ScoredGroup:
    """One prompt's trajectories: the total of each (None: failed) and each reward's results."""

    prompt: Prompt
    totals: tuple[float | None, ...]
    results: Mapping[str, tuple[RewardResult, ...]]  # reward name -> one result per trajectory


def values_by_reward(groups: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """Each reward's values over the surviving results that it really judged."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for name, results in group.results.items():
            values.setdefault(name, []).extend(score.value for score in _judged(results))
    return values


def values_by_detail(groups: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """The same for the details of rewards, by ``<reward>/<part>``: two may name a part alike."""
    values: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for name, results in group.results.items():
            for score in _judged(results):
                for part, value in (score.detail or {}).items():
                    values[f"{name}/{part}"].append(value)
    return dict(sorted(values.items()))


def failure_reasons(groups: Sequence[ScoredGroup]) -> dict[str, int]:
    """How often each reward failed for each reason, as ``"<reward>: <reason>"``."""
    reasons: dict[str, int] = defaultdict(int)
    for group in groups:
        for name, results in group.results.items():
            for result in results:
                if isinstance(result, RewardFailure):
                    reasons[f"{name}: {result.reason}"] += 1
    return dict(reasons)


def _judged(results: Sequence[RewardResult]) -> list[Score]:
    return [result for result in results if isinstance(result, Score) and result.applicable]
