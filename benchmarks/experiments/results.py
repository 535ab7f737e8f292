"""Judges the hypotheses of finished studies and writes their tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import mean

from benchmarks.cells import half_width, interval
from benchmarks.experiments.arms import SCALES, Arm
from benchmarks.experiments.records import Records
from benchmarks.experiments.studies import (
    MARGIN,
    STUDIES,
    UNTRAINED_TASKS,
    Expected,
    Hypothesis,
    Outcome,
    Study,
)
from policy.errors import UserError

# Level of the interval that judges a hypothesis. A direction is judged more strictly, because there
# are many such hypotheses.
LEVELS: dict[Expected, float] = {"greater": 0.99, "less": 0.99, "equal": 0.95, "not less": 0.95}
_LAST_STEPS = {
    "kl/mean": "KL",
    "entropy/cot/mean": "CoT entropy",
    "entropy/cot/std": "its standard deviation",
    "entropy/image/mean": "image entropy",
    "entropy/image/std": "its standard deviation",
    "guidance/logprob_gap": "guided minus conditional log-prob",
}
_HEADER = f"""\
# Results of the registered experiments

`python -m benchmarks.experiments table` writes this page from the recorded runs. A study
is reported when all seeds of all its arms are finished, and until then by their number alone.
[preregistration.md](preregistration.md) says what was registered before the runs, and how a
hypothesis is judged. Rewards are means over seeds ± the half-width of the 95 % interval (Student's
t), 64 prompts x 4 samples a set. Differences are paired by seed; their intervals are of the level
that the hypothesis is judged at, and differences within ± {MARGIN} count as equal.
"""


def finished(study: Study, records: Records) -> int:
    """How many runs of a study are recorded."""
    return sum(seed in records.runs(arm) for arm, seed in study.runs())


def is_complete(study: Study, records: Records) -> bool:
    """Whether all runs of a study are recorded, and its checkpoint before training too.

    Raises ``UserError`` when they were made with different versions of packages.
    """
    every = [*study.runs(), study.before]
    if any(seed not in records.runs(arm) for arm, seed in every):
        return False
    versions = {json.dumps(records.runs(arm)[seed]["versions"]) for arm, seed in every}
    if len(versions) > 1:
        raise UserError(
            f"study {study.name}: its runs were made with different versions of packages, and are"
            f" not compared: {'; '.join(sorted(versions))}"
        )
    return True


def value(arm: Arm, seed: int, outcome: Outcome, records: Records) -> float:
    """The outcome of a recorded run."""
    row = next(
        row
        for row in records.runs(arm)[seed]["evaluations"]
        if (row["set"], row["guidance_scale"]) == (outcome.set, outcome.scale)
    )
    if outcome.tasks:
        return mean(row["by_task"][task] for task in outcome.tasks)
    reward: float = row["reward/mean"]
    return reward


def values(arm: Arm, study: Study, outcome: Outcome, records: Records) -> list[float]:
    """The outcome of every registered seed."""
    return [value(arm, seed, outcome, records) for seed in study.seeds]


def verdict(differences: Sequence[float], expected: Expected, margin: float = MARGIN) -> str:
    """Whether a hypothesis holds, is contradicted, or stays undecided.

    The interval of the mean difference decides, at the level in ``LEVELS``. "greater" holds if it
    lies above 0, "less" if below, "equal" if inside ± margin, "not less" if above -margin. A
    hypothesis is contradicted if the interval lies where the hypothesis says it is not.
    """
    centre, half = mean(differences), half_width(differences, LEVELS[expected])
    low, high = centre - half, centre + half
    holds, contradicted = {
        "greater": (low > 0, high < 0),
        "less": (high < 0, low > 0),
        "equal": (-margin < low and high < margin, low > margin or high < -margin),
        "not less": (low > -margin, high < -margin),
    }[expected]
    return "holds" if holds else "contradicted" if contradicted else "undecided"


def table(records: Records) -> str:
    """All finished studies as Markdown."""
    return "\n".join([_HEADER, *(part for study in STUDIES for part in _study(study, records))])


def _study(study: Study, records: Records) -> list[str]:
    lines = [f"## {study.title}", ""]
    if not is_complete(study, records):
        done = f"{finished(study, records)} of {len(study.runs())} runs are finished"
        return [*lines, f"Not yet measured: {done}.", ""]
    outcomes = [Outcome(name, scale) for name in ("seen", "held_out") for scale in SCALES]
    if study.name == "one-task":
        outcomes = [
            Outcome("seen", 1.0, ("color",)),
            Outcome("seen", 1.0, UNTRAINED_TASKS),
            Outcome("held_out", 1.0),
        ]
    rows = [["arm", "seeds", *map(str, outcomes)]]
    rows.append(["before", "-", *(f"{value(*study.before, o, records):.3f}" for o in outcomes)])
    for arm in study.arms:
        found = [interval(values(arm, study, outcome, records)) for outcome in outcomes]
        rows.append([arm.label, str(len(study.seeds)), *found])
    lines += [*markdown(rows), "", *markdown(_last_steps(study, records)), ""]
    if not study.hypotheses:
        return lines
    header = ["", "arm", "minus", "outcome", "expected", "difference", "verdict"]
    judged = [_judged(hypothesis, study, records) for hypothesis in study.hypotheses]
    return [*lines, *markdown([header, *judged]), ""]


def _last_steps(study: Study, records: Records) -> list[list[str]]:
    """Metrics of the last steps of training, and how many updates were skipped in all runs."""
    rows = [["arm, last ten steps", *_LAST_STEPS.values(), "skipped updates"]]
    for arm in study.arms:
        runs = [records.runs(arm)[seed] for seed in study.seeds]
        means = []
        for key in _LAST_STEPS:
            found = [run["last_steps"].get(key) for run in runs]
            means.append(interval([each for each in found if each is not None]))
        rows.append([arm.label, *means, str(sum(run["skipped_updates"] for run in runs))])
    return rows


def _judged(hypothesis: Hypothesis, study: Study, records: Records) -> list[str]:
    base_outcome = hypothesis.base_outcome or hypothesis.outcome
    ours = values(hypothesis.arm, study, hypothesis.outcome, records)
    theirs = values(hypothesis.base, study, base_outcome, records)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    half = half_width(differences, LEVELS[hypothesis.expected])
    of_base = f" (base: {base_outcome})" if hypothesis.base_outcome else ""
    return [
        hypothesis.name,
        hypothesis.arm.label,
        hypothesis.base.label,
        f"{hypothesis.outcome}{of_base}",
        hypothesis.expected,
        f"{mean(differences):+.3f} ± {half:.3f}",
        verdict(differences, hypothesis.expected),
    ]


def markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, whose first row is its header."""
    header, *others = rows
    divider = ["---"] * len(header)
    return [f"| {' | '.join(row)} |" for row in (header, divider, *others)]


def status(records: Records) -> str:
    """How many runs of each study are recorded."""
    lines = []
    for study in STUDIES:
        done, runs = finished(study, records), len(study.runs())
        lines.append(f"{study.name:24} {done:3} of {runs:3} runs   {study.title}")
    every = {(arm.name, seed): (arm, seed) for study in STUDIES for arm, seed in study.runs()}
    done = sum(seed in records.runs(arm) for arm, seed in every.values())
    # Studies share runs: the sum of the lines above is larger.
    return "\n".join([*lines, f"{'all':24} {done:3} of {len(every):3} runs"])
