"""How training changed the rewards of fixed prompts: first and last rows of evaluations.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.summary import Estimate, estimate, paired_difference
from orchestrator.record.metrics import EVALUATION_METRICS, find
from policy.types import JsonDict

_SECTIONS = ("total", "by reward", "details of rewards", "by task")
# Key in the table of metrics -> the section that shows the metrics of this family.
_SECTION_OF = {"reward/{reward}": "by reward", "detail/{reward}/{part}": "details of rewards"}


@dataclass(frozen=True)
class Comparison:
    """The reward on one fixed set at its first and its last evaluation.

    ``before``, ``after`` and ``difference`` are over the prompts that both evaluations scored, so
    that ``after`` is ``before`` plus ``difference``. After a single evaluation ``difference`` is
    None.
    """

    label: str
    before_step: int
    after_step: int
    before: float
    after: float
    difference: Estimate | None
    num_prompts: int
    num_samples: int  # of the last evaluation, with failed ones
    num_failed: int

    @property
    def standard_errors(self) -> float | None:
        """The difference divided by its standard error; None if that error is 0 or not known."""
        if self.difference is None or not self.difference.standard_error > 0:
            return None
        return self.difference.mean / self.difference.standard_error


@dataclass(frozen=True)
class Change:
    """A mean before and after training; None if it was not measured."""

    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class TableRow:
    """One row of the before/after table: one quantity, with its change on each set."""

    section: str
    name: str
    changes: tuple[Change, ...]


def evaluated_sets(evaluations: Sequence[JsonDict]) -> dict[str, list[JsonDict]]:
    """The rows of each fixed set in order of steps, by the set's name.

    A set that was evaluated at several guidance scales becomes one set for each scale, named such
    as ``seen, w = 2``. If a step has two rows, the later row counts.
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
    """Compare the first and the last of a set's rows, which are in order of steps.

    The difference is paired over prompts, because rewards differ far more between prompts than
    training changes them. A resumed run may evaluate more or fewer prompts. Then the prompts of
    both evaluations are compared: every evaluation takes its prompts from the head of one file.
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
    """The comparison as one line of text.

    Example: ``reward on seen prompts: 0.705 -> 0.858, +0.153 ± 0.014 (standard error), 384
    samples``. One prompt alone has no standard error.
    """
    c = comparison
    name, comma, scale = c.label.partition(", ")
    what = f"reward on {name} prompts{comma}{scale}"
    if not c.num_prompts:
        return f"{what}: no prompt was scored, {c.num_samples} samples"
    text = f"{what}: {c.before:.3f}"
    if c.difference is not None:
        text += f" -> {c.after:.3f}, {c.difference.mean:+.3f}"
        if c.num_prompts > 1:
            text += f" ± {c.difference.standard_error:.3f} (standard error)"
    return f"{text}, {c.num_samples} samples"


def change_table(sets: dict[str, list[JsonDict]]) -> list[TableRow]:
    """The before/after table: the total, each reward, each detail and each task, for all sets."""
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
    """The means in one evaluation row, by section and name."""
    means = {("total", "reward"): row["reward/mean"]}
    for key, value in row.items():
        metric = find(key, EVALUATION_METRICS)
        if metric and (section := _SECTION_OF.get(metric.key)):
            means[section, key.partition("/")[2]] = value
    return means | {("by task", task): value for task, value in row["by_task"].items()}
