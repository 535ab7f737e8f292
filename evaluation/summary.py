"""Rewards of fixed prompts with standard errors that respect the grouping by prompt.

Samples of one prompt are not independent draws of the prompt distribution, so the prompt is the
unit: a set's mean is the mean of prompt means, its standard error their spread over sqrt(prompts).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from policy.moments import deviation, mean
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup, failure_reasons, values_by_detail, values_by_reward


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error; the error of fewer than two values is NaN."""

    mean: float
    standard_error: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of independent values."""
    if not values:
        return Estimate(math.nan, math.nan)
    error = deviation(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(mean(values), error)


def paired_difference(
    before: Sequence[float | None], after: Sequence[float | None]
) -> tuple[Estimate, int]:
    """Mean change over prompts that both evaluations scored, and how many those are."""
    changes = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return estimate(changes), len(changes)


def prompt_means(groups: Sequence[ScoredGroup]) -> list[float | None]:
    """Mean total of each prompt's surviving samples; None where none survived."""
    survivors = ([total for total in group.totals if total is not None] for group in groups)
    return [mean(totals) if totals else None for totals in survivors]


def summarize(groups: Sequence[ScoredGroup]) -> JsonDict:
    """One row of ``evaluations.jsonl``, without step and set: see the keys below.

    ``reward/mean`` and ``reward/standard_error`` are of the weighted total; ``reward/<name>`` and
    ``detail/<name>/<part>`` are means over surviving samples that the reward judged; NaN becomes
    null.
    """
    means = prompt_means(groups)
    known = [value for value in means if value is not None]
    by_task: dict[str, list[float]] = defaultdict(list)
    for group, value in zip(groups, means, strict=True):
        if value is not None:
            by_task[group.prompt.task_type].append(value)
    parts = {f"reward/{name}": values for name, values in values_by_reward(groups).items()}
    parts |= {f"detail/{part}": values for part, values in values_by_detail(groups).items()}
    overall = estimate(known)
    totals = [total for group in groups for total in group.totals]
    return {
        "reward/mean": _finite(overall.mean),
        "reward/standard_error": _finite(overall.standard_error),
        **{key: _finite(estimate(values).mean) for key, values in sorted(parts.items())},
        "by_task": {task: estimate(values).mean for task, values in sorted(by_task.items())},
        "num_prompts": len(groups),
        "num_samples": len(totals),
        "num_failed": sum(total is None for total in totals),
        "failure_reasons": failure_reasons(groups),
        "prompt_means": means,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
