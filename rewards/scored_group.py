"""A group with the results of every reward, and summaries of several such groups for metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policy.types import Prompt, RewardFailure, RewardResult, Score


@dataclass(frozen=True)
class ScoredGroup:
    """The rewards of one prompt's trajectories. A total is None when its trajectory has failed."""

    prompt: Prompt
    totals: tuple[float | None, ...]
    results: Mapping[str, tuple[RewardResult, ...]]  # reward name -> one result per trajectory


def values_by_reward(groups: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """Each reward's values, without failures and without scores that are not applicable."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for name, results in group.results.items():
            values.setdefault(name, []).extend(score.value for score in _judged(results))
    return values


def values_by_detail(groups: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """The values of each detail, as ``values_by_reward`` selects them.

    Keys are ``<reward>/<part>``, because two rewards may give a part the same name.
    """
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
