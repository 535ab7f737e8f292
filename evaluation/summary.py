"""Mean rewards of a set of fixed prompts, with standard errors.

The samples of one prompt are not independent. The statistics therefore take the mean of each
prompt as one value: the mean of the set is the mean of these values, and its standard error is
their standard deviation / sqrt(number of prompts).
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
    """A mean and its standard error, which is NaN for fewer than two values."""

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
    """The mean change from ``before`` to ``after``, and the number of prompts behind it.

    The two hold the mean of each prompt. A prompt with None in either is left out.
    """
    changes = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return estimate(changes), len(changes)


def prompt_means(groups: Sequence[ScoredGroup]) -> list[float | None]:
    """The mean total of each prompt over its surviving samples; None if none survived.

    A sample survives if none of its rewards failed.
    """
    survivors = ([total for total in group.totals if total is not None] for group in groups)
    return [mean(totals) if totals else None for totals in survivors]


def summarise(groups: Sequence[ScoredGroup]) -> JsonDict:
    """One row of ``evaluations.jsonl``, without the step and the name of the set.

    ``reward/mean`` and ``reward/standard_error`` are those of the weighted total. ``reward/<name>``
    and ``detail/<name>/<part>`` are means over the surviving samples that this reward judged. NaN
    becomes null.
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
