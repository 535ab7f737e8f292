"""Judges the hypotheses of finished studies and writes their tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks.cells import half_width, interval
from benchmarks.experiments.arms import TOKEN_METHODS, WORLDS, Arm
from benchmarks.experiments.passes import passes
from benchmarks.experiments.records import Records
from benchmarks.experiments.studies import (
    MARGIN,
    SCREENING,
    STUDIES,
    Expected,
    Hypothesis,
    Outcome,
    Study,
)
from policy.errors import UserError
from policy.types import JsonDict

# Level of the interval that judges a hypothesis. A direction is judged more strictly, because there
# are many such hypotheses.
LEVELS: dict[Expected, float] = {"greater": 0.99, "less": 0.99, "equal": 0.95, "not less": 0.95}
VERSIONS_DIFFER = "Not reported, because versions of packages differ"
_PRICED = ("unguided", "recipes", "distillation-weight")  # studies about what a user should do
_TRAINING_STAGES = ("rollout", "learn", "distil")  # of the CPU seconds of a record
_LAST_STEPS = {
    "kl/mean": "k3",
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
that the hypothesis is judged at, and differences within ± {MARGIN} count as equal. Forward passes
are those of the language model in a whole run; a backward pass counts as two. CPU seconds are those
of rollout, learner and distillation: on a shared machine they vary with what else it does. k3 is
the mean of the KL estimate of the distribution that is trained, over the sampled tokens. Where the
samples come from the guided distribution and the conditional one is trained, it is no KL divergence
from the model before training, but a measure of how far the policy has moved.
"""


def finished(study: Study, records: Records) -> int:
    """How many runs of a study are recorded."""
    return sum(seed in records.runs(arm) for arm, seed in study.runs())


def unreported(study: Study, records: Records) -> str | None:
    """Why a study is not reported; None if it is.

    All of its runs must be recorded, and its checkpoint before training, all with the same versions
    of packages.
    """
    every = [*study.runs(), study.before]
    if any(seed not in records.runs(arm) for arm, seed in every):
        done = f"{finished(study, records)} of {len(study.runs())} runs are finished"
        return f"Not yet measured: {done}."
    versions = {json.dumps(records.runs(arm)[seed]["versions"]) for arm, seed in every}
    if len(versions) > 1:
        return f"{VERSIONS_DIFFER}: {'; '.join(sorted(versions))}."
    return None


def value(arm: Arm, seed: int, outcome: Outcome, records: Records) -> float:
    """The outcome of a recorded run."""
    row = _evaluation(arm, seed, outcome, records)
    if outcome.tasks:
        return mean(row["by_task"][task] for task in outcome.tasks)
    reward: float = row["reward/mean"]
    return reward


def _evaluation(arm: Arm, seed: int, outcome: Outcome, records: Records) -> JsonDict:
    """The row with an outcome. A run that was evaluated at its end alone may not say its step."""
    found: list[JsonDict] = [
        row
        for row in records.runs(arm)[seed]["evaluations"]
        if (row["set"], row["guidance_scale"]) == (outcome.set, outcome.scale)
        and (outcome.step is None or outcome.step == row["step"])
    ]
    return found[-1]


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


def table(records: Records, folder: Path) -> str:
    """All finished studies as Markdown, and those guidance figures that are in ``folder``."""
    figures = [folder / f"guidance-{world}.svg" for world in WORLDS]
    shown = [
        f"![Reward over the guidance scale of evaluation]({figure.name})\n"
        for figure in figures
        if figure.is_file()
    ]
    studies = [part for study in STUDIES for part in _study(study, records)]
    return "\n".join([_HEADER, *_made(records), *_verdicts(records), *shown, *studies])


def _made(records: Records) -> list[str]:
    """When and on what the recorded runs were made."""
    arms = {arm.name: arm for study in STUDIES for arm in study.arms}
    runs = [run for arm in arms.values() for run in records.runs(arm).values()]
    if not runs:
        return []
    dates, machines = ({run[key] for run in runs} for key in ("date", "machine"))
    when = " to ".join(sorted({min(dates), max(dates)}))
    return [f"{len(runs)} runs of {when}; {'; '.join(sorted(machines))}.", ""]


def _verdicts(records: Records) -> list[str]:
    """The verdicts of all finished studies, one row for each study that has hypotheses."""
    rows = [["hypotheses", "study", "verdicts"]]
    for study in STUDIES:
        if not study.hypotheses:
            continue
        names = ", ".join(dict.fromkeys(h.name.rstrip("abcdef") for h in study.hypotheses))
        if unreported(study, records) is not None:
            rows.append([names, study.title, "not yet measured"])
            continue
        judged = [_judged(hypothesis, study, records) for hypothesis in study.hypotheses]
        verdicts = ", ".join(f"{row[0]} {row[-1]}" for row in judged)
        rows.append([names, study.title, verdicts])
    return ["## Verdicts", "", *markdown(rows), ""]


def _study(study: Study, records: Records) -> list[str]:
    lines = [f"## {study.title}", ""]
    if (reason := unreported(study, records)) is not None:
        return [*lines, reason, ""]
    rows = [["arm", "seeds", *map(str, study.shown)]]
    before = [replace(outcome, step=None) for outcome in study.shown]
    rows.append(["before", "-", *(f"{value(*study.before, o, records):.3f}" for o in before)])
    for arm in study.arms:
        found = [interval(values(arm, study, outcome, records)) for outcome in study.shown]
        rows.append([arm.label, str(len(study.seeds)), *found])
    lines += [*markdown(rows), "", *markdown(_last_steps(study, records)), ""]
    if study.name in _PRICED:
        lines += [*markdown(_prices(study, records)), ""]
    if len(study.arms[0].evaluated_after()) > 1:
        lines += [*markdown(_diversity(study, records)), ""]
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


def _diversity(study: Study, records: Records) -> list[list[str]]:
    """The Vendi score of the seen prompts at every evaluation, and how it changes."""
    first, *steps = study.arms[0].evaluated_after()
    scale = study.shown[0].scale
    rows = [["arm, Vendi score", *(f"step {s}" for s in (first, *steps)), "last minus first"]]
    for arm in study.arms:
        of_step = [
            [
                _evaluation(arm, seed, Outcome("seen", scale, (), step), records)["vendi"]
                for seed in study.seeds
            ]
            for step in (first, *steps)
        ]
        change = [last - start for start, last in zip(of_step[0], of_step[-1], strict=True)]
        rows.append([arm.label, *map(interval, of_step), interval(change)])
    return rows


def _prices(study: Study, records: Records) -> list[list[str]]:
    """What training costs, and what it gains for that on the seen prompts."""
    scales = (1.0, 2.0)
    gains = [f"gain in 1,000 CPU s, seen, w = {scale:g}" for scale in scales]
    rows = [["arm, costs", "forward passes", "CPU seconds", "of these rollout", *gains]]
    for arm in study.arms:
        stages = [records.runs(arm)[seed]["cpu_seconds"] for seed in study.seeds]
        seconds = [sum(spent.get(stage, 0) for stage in _TRAINING_STAGES) for spent in stages]
        drawing = interval([spent["rollout"] for spent in stages], 0)
        row = [arm.label, f"{passes(arm):,}", interval(seconds, 0), drawing]
        for scale in scales:
            outcome = Outcome("seen", scale)
            before = value(*study.before, outcome, records)
            after = values(arm, study, outcome, records)
            gained = [a - before for a in after]
            row.append(interval([1000 * g / s for g, s in zip(gained, seconds, strict=True)]))
        rows.append(row)
    return rows


def choice(records: Records) -> tuple[str, ...]:
    """The two token methods of the screening with the highest reward of seen prompts at w = 2.

    Raises ``UserError`` when the screening is not finished.
    """
    if (reason := unreported(SCREENING, records)) is not None:
        raise UserError(f"study {SCREENING.name}: {reason}")
    of_method = {
        arm.label: mean(values(arm, SCREENING, Outcome("seen", 2.0), records))
        for arm in SCREENING.arms
        if arm.label in TOKEN_METHODS
    }
    first, second, *_ = sorted(of_method, key=lambda name: of_method[name], reverse=True)
    return first, second


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
