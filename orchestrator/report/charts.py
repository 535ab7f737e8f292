"""Which charts a page has, and the numbers of their lines. The page's script draws them.

A chart without a value is left out. With several runs each run has its line in every chart. Runs
whose settings differ by the seed alone share one line: their mean, and its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from orchestrator.record.metrics import STAGES, STEP_METRICS, find
from orchestrator.report.curves import Series, drawn, over_seeds
from orchestrator.report.run_files import RunFiles
from policy.types import JsonDict

_EACH_REWARD = ("reward/{reward}", "detail/{reward}/{part}")  # keys in the table of metrics
_METRICS = {metric.key: metric for metric in STEP_METRICS}


def _meaning(key: str) -> str:
    """The caption of a chart that shows one metric: its help and its unit from the table."""
    metric = _METRICS[key]
    return metric.help if metric.unit in ("1", "share") else f"{metric.help}, in {metric.unit}"


# Title, caption, and one line for each metric: key -> label in the legend.
_CHARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Reward spread",
        "standard deviation of the total: of a step, and inside its groups",
        {"reward/std": "step", "reward/group_std": "inside groups"},
    ),
    (
        "Entropy",
        "mean over tokens, normalised",
        {"entropy/cot/mean": "CoT", "entropy/image/mean": "image"},
    ),
    (
        "Entropy spread",
        "standard deviation over tokens, normalised",
        {"entropy/cot/std": "CoT", "entropy/image/std": "image"},
    ),
    (
        "Guided minus conditional",
        "what guidance adds to log-prob and entropy of the image tokens, mean in nats",
        {"guidance/logprob_gap": "log-prob", "guidance/entropy_gap": "entropy"},
    ),
    ("KL to the reference", _meaning("kl/mean"), {"kl/mean": "KL"}),
    ("Gradient norm", _meaning("grad_norm"), {"grad_norm": "gradient norm"}),
    (
        "Off-policy ratios",
        "share of tokens whose ratio was clipped, and whose ratio is below 0.9 or above 1.1",
        {"ratio/clipped": "clipped", "ratio/outside": "outside 0.9 to 1.1"},
    ),
    (
        "Token partition",
        "share of tokens of low and of high entropy",
        {"tokens/low_fraction": "low", "tokens/high_fraction": "high"},
    ),
    ("Bonus", _meaning("bonus/mean"), {"bonus/mean": "bonus"}),
    (
        "Advantages the bonus reverses",
        _meaning("bonus/flip_share"),
        {"bonus/flip_share": "reversed"},
    ),
    ("CoT length", _meaning("cot_length/mean"), {"cot_length/mean": "tokens"}),
    ("CoTs cut", _meaning("cot_length/capped"), {"cot_length/capped": "cut"}),
)


def charts(runs: Sequence[RunFiles]) -> list[JsonDict]:
    """Every chart that has a value to draw: title, caption, kind and lines."""
    families = _families(runs)
    sets = dict.fromkeys(name for run in runs for name in run.sets)
    found = [_evaluated(families, list(sets))]
    keys = dict.fromkeys(key for run in runs for row in run.metrics for key in row)
    each = {
        key: key.partition("/")[2]
        for key in keys
        if (metric := find(key)) and metric.key in _EACH_REWARD
    }
    for title, text, labels in (
        ("Reward in training", _meaning("reward/mean"), {"reward/mean": "total"}),
        ("Each reward in training", "with details of rewards; unweighted, mean of a step", each),
        *_CHARTS,
    ):
        lines = _lines(families, [(label, _of_metric(key)) for key, label in labels.items()])
        found.append({"title": title, "text": text, "kind": "line", "lines": lines})
    found += [_stages(run, len(runs) > 1) for run in runs]
    return [chart for chart in found if chart["lines"]]


def _families(runs: Sequence[RunFiles]) -> dict[str, list[RunFiles]]:
    """The runs that share their settings but for the seed, by the label of their line."""
    by_settings: dict[object, list[RunFiles]] = {}
    for run in runs:
        by_settings.setdefault(run.family or run.label, []).append(run)
    return {
        family[0].label if len(family) == 1 else f"{family[0].label} ({len(family)} runs)": family
        for family in by_settings.values()
    }


def _lines(
    families: dict[str, list[RunFiles]],
    quantities: Sequence[tuple[str, Callable[[RunFiles], Series | None]]],
) -> list[JsonDict]:
    """One line for each family and quantity that has a value; ``run`` counts the families."""
    lines = []
    for place, (name, family) in enumerate(families.items()):
        for part, (label, series_of) in enumerate(quantities):
            series = [one for run in family if (one := series_of(run)) and one.present]
            if not series:
                continue
            several = len(quantities) > 1
            label = label if len(families) == 1 else f"{name}: {label}" if several else name
            line = over_seeds(label, series)
            if line.present:
                lines.append(drawn(line) | {"run": place, "part": part})
    return lines


def _of_metric(key: str) -> Callable[[RunFiles], Series | None]:
    return lambda run: Series(
        key, [row["step"] for row in run.metrics], [row.get(key) for row in run.metrics]
    )


def _evaluated(families: dict[str, list[RunFiles]], sets: Sequence[str]) -> JsonDict:
    def of_set(name: str) -> Callable[[RunFiles], Series | None]:
        def series(run: RunFiles) -> Series | None:
            rows = run.sets.get(name, [])
            return Series(
                name,
                [row["step"] for row in rows],
                [row["reward/mean"] for row in rows],
                [row["reward/standard_error"] for row in rows],
            )

        return series

    text = "same prompts and seeds at every step; plus and minus one standard error over prompts"
    if any(len(family) > 1 for family in families.values()):
        text += ", or over seeds where a line has several"
    lines = _lines(families, [(name, of_set(name)) for name in sets])
    return {"title": "Reward on fixed prompts", "text": text, "kind": "line", "lines": lines}


def _stages(run: RunFiles, several: bool) -> JsonDict:
    """The seconds of each stage, and as "other" the rest of the step."""
    metrics = run.metrics
    steps = [row["step"] for row in metrics]
    stages = {stage: [row.get(f"seconds/{stage}") or 0.0 for row in metrics] for stage in STAGES}
    whole = [row.get("seconds/step") or 0.0 for row in metrics]
    used = [math.fsum(parts) for parts in zip(*stages.values(), strict=True)]
    stages["other"] = [max(0.0, step - part) for step, part in zip(whole, used, strict=True)]
    total = math.fsum(map(math.fsum, stages.values()))
    lines = [
        drawn(Series(f"{stage} {math.fsum(seconds) / total:.0%}", steps, seconds))
        | {"run": 0, "part": part}
        for part, (stage, seconds) in enumerate(stages.items())
        if any(seconds)
    ]
    title = f"Time of a step: {run.label}" if several else "Time of a step"
    return {"title": title, "text": "seconds by stage", "kind": "stack", "lines": lines}
