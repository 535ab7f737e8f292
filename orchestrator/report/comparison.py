"""What training did to the rewards of fixed prompts: rows of evaluations.jsonl, first to last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.summary import Estimate, estimate, paired_difference
from orchestrator.record.metrics import EVALUATION_METRICS, find
from policy.types import JsonDict

_SECTIONS = ("total", "by reward", "details of rewards", "by task")
# Families of the table of metrics -> the section that shows their members.
_SECTION_OF = {"reward/{reward}": "by reward", "detail/{reward}/{part}": "details of rewards"}


@dataclass(frozen=True)
class Comparison:
    """The reward on one fixed set at its first and its last evaluation.

    All three rewards are of the prompts that both evaluations scored, so that ``after`` is
    ``before`` plus ``difference``. With one evaluation so far ``difference`` is None.
    """

    label: str
    before_step: int
    after_step: int
    before: float
    after: float
    difference: Estimate | None
    num_prompts: int
    num_samples: int  # of the last evaluation, failed ones too
    num_failed: int

    @property
    def standard_errors(self) -> float | None:
        """The difference in units of its standard error; None where that has no meaning."""
        if self.difference is None or not self.difference.standard_error > 0:
            return None
        return self.difference.mean / self.difference.standard_error


@dataclass(frozen=True)
class Change:
    """A mean before and after; None where it was not measured."""

    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class TableRow:
    """One quantity of the before/after table with one change per set."""

    section: str
    name: str
    changes: tuple[Change, ...]


def evaluated_sets(evaluations: Sequence[JsonDict]) -> dict[str, list[JsonDict]]:
    """Rows of each fixed set by step, under the set's name.

    A set evaluated at several guidance scales counts once for each, named ``seen, w = 2``. Of two
    rows of one step the later one stands.
    """
    scales: dict[str, set[float]] = {}
    for row in evaluations:
        scales.setdefault(row["set"], set()).add(row["guidance_scale"])
    sets: dict[str, dict[int, JsonDict]] = {}
    for row in evaluations:
        name, scale = row["set"], row["guidance_scale"]
        label = f"{name}, w = {scale:g}" if len(scales[name]) > 1 else name
        sets.setdefault(label, {})[row["step"]] = row
    return {label: [rows[step] for step in sorted(rows)] for label, rows in sets.items()}


def compare(label: str, rows: Sequence[JsonDict]) -> Comparison:
    """The headline of one set, its rows in order of steps.

    The difference is paired over prompts: prompts differ far more among each other than training
    changes them. If a resumed run evaluates more or fewer prompts, those of both are compared:
    every evaluation takes them from the head of the same file.
    """
    first, last = rows[0], rows[-1]
    shared = min(len(first["prompt_means"]), len(last["prompt_means"]))
    before, after = first["prompt_means"][:shared], last["prompt_means"][:shared]
    both = [(b, a) for b, a in zip(before, after, strict=True) if None not in (b, a)]
    return Comparison(
        label=label,
        before_step=first["step"],
        after_step=last["step"],
        before=estimate([b for b, _ in both]).mean,
        after=estimate([a for _, a in both]).mean,
        difference=None if first is last else paired_difference(before, after)[0],
        num_prompts=len(both),
        num_samples=last["num_samples"],
        num_failed=last["num_failed"],
    )


def headline(comparison: Comparison) -> str:
    """``reward on seen prompts: 0.705 -> 0.858, +0.153 ± 0.014 (standard error), 384 samples``."""
    c = comparison
    text = f"reward on {c.label} prompts: {c.before:.3f}"
    if c.difference is not None:
        error = c.difference.standard_error
        text += f" -> {c.after:.3f}, {c.difference.mean:+.3f} ± {error:.3f} (standard error)"
    return f"{text}, {c.num_samples} samples"


def change_table(sets: dict[str, list[JsonDict]]) -> list[TableRow]:
    """Means of the total, of each reward and its details, and of each task, for all sets."""
    pairs = [(_means(rows[0]), _means(rows[-1]) if len(rows) > 1 else {}) for rows in sets.values()]
    keys = dict.fromkeys(key for before, after in pairs for key in (*before, *after))
    return [
        TableRow(
            section,
            name,
            tuple(
                Change(before.get((section, name)), after.get((section, name)))
                for before, after in pairs
            ),
        )
        for section, name in sorted(keys, key=lambda key: _SECTIONS.index(key[0]))
    ]


def _means(row: JsonDict) -> dict[tuple[str, str], float | None]:
    means = {("total", "reward"): row["reward/mean"]}
    for key, value in row.items():
        metric = find(key, EVALUATION_METRICS)
        if metric and (section := _SECTION_OF.get(metric.key)):
            means[section, key.partition("/")[2]] = value
    return means | {("by task", task): value for task, value in row["by_task"].items()}
