"""One row of metrics.jsonl, put together from what each stage of a step reports."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from evaluation.summary import ScoredGroup, failure_reasons
from learner.advantages import has_variance
from policy.types import JsonDict, Score


class Clock:
    """Seconds spent in each stage of a step, as ``seconds/<stage>``."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"seconds/{name}"] += time.perf_counter() - start

    def row(self) -> dict[str, float]:
        total = time.perf_counter() - self.started
        return {name: round(value, 4) for name, value in self.seconds.items()} | {
            "seconds/step": round(total, 4)
        }


def reward_metrics(
    scored: Sequence[ScoredGroup], advantages: Sequence[Sequence[float | None] | None]
) -> JsonDict:
    """Rewards of a step's trajectories; failed ones count nowhere but in ``rewards/failed``."""
    totals = [total for group in scored for total in group.totals if total is not None]
    row: JsonDict = {"reward/mean": _mean(totals), "reward/std": _std(totals)}
    for name, values in values_by_reward(scored).items():
        row[f"reward/{name}"] = _mean(values)
    for part, values in _details(scored).items():
        row[f"detail/{part}"] = _mean(values)
    spreads = [_std([t for t in group.totals if t is not None]) for group in scored]
    row["reward/group_std"] = _mean([spread for spread in spreads if spread is not None])
    trained = [group for group in advantages if group is not None]
    row["groups/trained"] = len(trained)
    row["groups/failed"] = len(advantages) - len(trained)
    row["groups/zero_variance"] = sum(not has_variance(group) for group in trained)
    row["rewards/failed"] = sum(failure_reasons(scored).values())
    return row


def values_by_reward(scored: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """Each reward's values over the surviving results of a step."""
    values: dict[str, list[float]] = {}
    for group in scored:
        for name, results in group.results.items():
            kept = [result.value for result in results if isinstance(result, Score)]
            values.setdefault(name, []).extend(kept)
    return values


def spreads(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each reward that has any."""
    return {name: (min(v), max(v)) for name, v in values.items() if v}


def _details(scored: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    parts: dict[str, list[float]] = defaultdict(list)
    for group in scored:
        for results in group.results.values():
            for result in results:
                if isinstance(result, Score):
                    for part, value in (result.detail or {}).items():
                        parts[part].append(value)
    return dict(sorted(parts.items()))


def without_nan(row: JsonDict) -> JsonDict:
    """The row with null for the mean of nothing, which JSON has no NaN for."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
