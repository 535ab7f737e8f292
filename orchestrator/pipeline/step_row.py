"""The parts of a row of metrics.jsonl that the orchestrator computes: times, rewards and scoring.

Every key is listed in orchestrator/record/metrics.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from learner.algorithm.advantages import has_variance
from orchestrator.pipeline.step_batch import StepBatch
from policy.moments import deviation, mean
from policy.types import JsonDict, RewardFailure
from rewards.scored_group import ScoredGroup, failure_reasons, values_by_detail, values_by_reward

if TYPE_CHECKING:
    from orchestrator.workers.reward_pool import Usage


def step_row(step: int, batch: StepBatch, learned: JsonDict, gap: float | None) -> JsonDict:
    """The row of one step, but for its alarms, evaluation and seconds.

    ``step`` is the number of steps that are done now, ``learned`` what the learner reports, and
    ``gap`` the largest difference of a probe after the push, in nats. It is None when nothing was
    pushed, and then the row has no key for it.
    """
    row: JsonDict = {"step": step, "time": time.time(), "weight_version": step}
    row |= reward_metrics(batch.scored, batch.advantages, batch.dropped) | learned
    row |= scoring_metrics(batch.usage)
    row |= {f"workers/{role}": count for role, count in batch.workers.items()}
    return row if gap is None else row | {"probe/gap": gap}


def reward_metrics(
    scored: Sequence[ScoredGroup],
    advantages: Sequence[Sequence[float | None]],
    dropped: Sequence[ScoredGroup] = (),
) -> JsonDict:
    """Statistics of the rewards of one step.

    ``scored`` are the groups that are trained on, ``advantages`` their advantages in the same
    order. A failed score enters no mean; it is only counted as a failure. Of the groups in
    ``dropped`` nothing but the failures is counted.
    """
    totals = [total for group in scored for total in group.totals if total is not None]
    row: JsonDict = {"reward/mean": _mean(totals), "reward/std": _std(totals)}
    for name, values in values_by_reward(scored).items():
        row[f"reward/{name}"] = _mean(values)
        row[f"reward_std/{name}"] = _std(values)
    for part, values in values_by_detail(scored).items():
        row[f"detail/{part}"] = _mean(values)
    spreads = [_std([t for t in group.totals if t is not None]) for group in scored]
    row["reward/group_std"] = _mean([spread for spread in spreads if spread is not None])
    row["groups/trained"] = len(scored)
    row["groups/failed"] = len(dropped)
    row["groups/zero_variance"] = sum(not has_variance(group) for group in advantages)
    for name, count in failures_by_reward([*scored, *dropped]).items():
        row[f"scoring/{name}/failed"] = count
    row["rewards/failure_reasons"] = reasons = failure_reasons([*scored, *dropped])
    row["rewards/failed"] = sum(reasons.values())
    return row


def scoring_metrics(usage: Mapping[str, Usage]) -> JsonDict:
    """The work of each reward's pool in one step. Seconds are those of single ``score()`` calls."""
    row: JsonDict = {}
    for name, used in usage.items():
        looked_up = used.cache_hits + used.cache_misses
        row |= {
            f"seconds/scoring/{name}/mean": _mean(used.seconds),
            f"seconds/scoring/{name}/max": max(used.seconds, default=None),
            f"scoring/{name}/batch_size": _mean(used.batch_sizes),
            f"scoring/{name}/cache_hit_rate": used.cache_hits / looked_up if looked_up else None,
            f"scoring/{name}/retries": used.retries,
            f"scoring/{name}/restarts": used.restarts,
        }
    return row


def failures_by_reward(scored: Sequence[ScoredGroup]) -> dict[str, int]:
    """How many trajectories each reward failed to score, by the reward's name."""
    counts: dict[str, int] = {}
    for group in scored:
        for name, results in group.results.items():
            failed = sum(isinstance(result, RewardFailure) for result in results)
            counts[name] = counts.get(name, 0) + failed
    return counts


def spreads(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each reward; rewards without a value are left out."""
    return {name: (min(v), max(v)) for name, v in values.items() if v}


def without_nan(row: JsonDict) -> JsonDict:
    """The row with None in place of NaN and infinity, which JSON cannot express.

    NaN is the mean of no values, infinity a number that overflowed.
    """
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return deviation(values) if len(values) > 1 else None
