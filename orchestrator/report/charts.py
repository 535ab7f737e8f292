"""Which charts a page has, and the numbers of their lines. The page's script draws them.

Every number of metrics.jsonl has a line in one of them. A chart without a value is left out. With
several runs each run has its line in every chart. Runs whose settings differ by the seed alone
share one line: their mean, and its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from orchestrator.record.metrics import STAGES, STEP_METRICS, placed
from orchestrator.report.curves import MAX_POINTS, Series, drawn, over_seeds
from orchestrator.report.embedding import embedded_size
from orchestrator.report.run_files import RunFiles
from policy.types import JsonDict

MAX_CHART_BYTES = 2_000_000  # all charts of a page together
_METRICS = {metric.key: metric for metric in STEP_METRICS}


def _meaning(key: str) -> str:
    """The caption of a chart that shows one metric: its help from the table, and its unit unless
    the help begins with it."""
    metric = _METRICS[key]
    plain = metric.unit in ("1", "share") or metric.help.startswith(metric.unit)
    return metric.help if plain else f"{metric.help}, in {metric.unit}"


# Title, caption, and the lines: key -> label in the legend. A key with placeholders, as in the
# table of metrics, stands for a line of each key of that family. Its label has their values.
_CHARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Reward in training", _meaning("reward/mean"), {"reward/mean": "total"}),
    (
        "Each reward in training",
        "with details of rewards; unweighted, mean of a step",
        {"reward/{reward}": "{}", "detail/{reward}/{part}": "{}/{}"},
    ),
    (
        "Reward spread",
        "standard deviation of the total: of a step, and inside its groups",
        {"reward/std": "step", "reward/group_std": "inside groups"},
    ),
    (
        "Spread of each reward",
        _meaning("reward_std/{reward}"),
        {"reward_std/{reward}": "{}"},
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
        "Entropy control",
        _meaning("entropy_control/{modality}"),
        {"entropy_control/{modality}": "{}"},
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
        "share of tokens whose ratio was clipped, is below 0.9 or above 1.1, or was above the cap",
        {
            "ratio/clipped": "clipped",
            "ratio/outside": "outside 0.9 to 1.1",
            "ratio/capped": "above the cap",
        },
    ),
    ("Mean off-policy ratio", _meaning("ratio/mean"), {"ratio/mean": "ratio"}),
    ("Advantage", _meaning("advantage/abs_mean"), {"advantage/abs_mean": "advantage"}),
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
    ("Factor of the bonus", _meaning("lambda_b"), {"lambda_b": "factor"}),
    ("Loss", _meaning("loss"), {"loss": "loss"}),
    ("Learning rate", _meaning("learning_rate"), {"learning_rate": "learning rate"}),
    ("Updates skipped", _meaning("updates/skipped"), {"updates/skipped": "skipped"}),
    ("Tokens of a step", _meaning("tokens/trained"), {"tokens/trained": "tokens"}),
    ("CoT length", _meaning("cot_length/mean"), {"cot_length/mean": "tokens"}),
    ("CoTs cut", _meaning("cot_length/capped"), {"cot_length/capped": "cut"}),
    (
        "Groups",
        "trained on, those of them whose rewards are all equal, and those dropped",
        {
            "groups/trained": "trained on",
            "groups/zero_variance": "of equal rewards",
            "groups/failed": "dropped",
        },
    ),
    (
        "Scores that failed",
        "of all rewards, and of each: trajectories that it could not score",
        {"rewards/failed": "all", "scoring/{reward}/failed": "{}"},
    ),
    (
        "Repairs of scoring",
        "batches of which trajectories were scored again, and workers that were replaced",
        {"scoring/{reward}/retries": "{} retries", "scoring/{reward}/restarts": "{} restarts"},
    ),
    (
        "Time of scoring",
        "one score() call in seconds: mean over calls, and the longest",
        {
            "seconds/scoring/{reward}/mean": "{} mean",
            "seconds/scoring/{reward}/max": "{} longest",
        },
    ),
    (
        "Batches of scoring",
        _meaning("scoring/{reward}/batch_size"),
        {"scoring/{reward}/batch_size": "{}"},
    ),
    (
        "Scores from the cache",
        _meaning("scoring/{reward}/cache_hit_rate"),
        {"scoring/{reward}/cache_hit_rate": "{}"},
    ),
    (
        "Staleness",
        "weight versions from rollout to training: mean over trajectories, and of the oldest",
        {"staleness/mean": "mean", "staleness/max": "oldest"},
    ),
    ("Weight version", _meaning("weight_version"), {"weight_version": "version"}),
    ("Gap between engine and learner", _meaning("probe/gap"), {"probe/gap": "gap"}),
    ("Workers", _meaning("workers/{role}"), {"workers/{role}": "{}"}),
)


def charts(runs: Sequence[RunFiles]) -> list[JsonDict]:
    """Every chart that has a value to draw: title, caption, kind and lines.

    A line has at most ``MAX_POINTS`` points. This bound is halved until all charts take at most
    ``MAX_CHART_BYTES``, as those of several runs may need.
    """
    points = MAX_POINTS
    while embedded_size(found := _charts(runs, points)) > MAX_CHART_BYTES and points > 1:
        points //= 2
    return found


def _charts(runs: Sequence[RunFiles], points: int) -> list[JsonDict]:
    families = _families(runs)
    sets = dict.fromkeys(name for run in runs for name in run.sets)
    found = [_evaluated(families, list(sets), points)]
    keys = dict.fromkeys(key for run in runs for row in run.metrics for key in row)
    for title, text, labels in _CHARTS:
        quantities = [(label, _of_metric(key)) for key, label in _labelled(labels, keys)]
        lines = _lines(families, quantities, points)
        found.append({"title": title, "text": text, "kind": "line", "lines": lines})
    found += [_stages(run, len(runs) > 1, points) for run in runs]
    return [chart for chart in found if chart["lines"]]


def _labelled(labels: Mapping[str, str], keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each key of a chart with its label; a family stands for those of its keys that rows have."""
    for name, label in labels.items():
        if "{" not in name:
            yield name, label
            continue
        for key in keys:
            metric, parts = placed(key)
            if metric is not None and metric.key == name:
                yield key, label.format(*parts)


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
    points: int,
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
                lines.append(drawn(line, points) | {"run": place, "part": part})
    return lines


def _of_metric(key: str) -> Callable[[RunFiles], Series | None]:
    return lambda run: Series(
        key, [row["step"] for row in run.metrics], [row.get(key) for row in run.metrics]
    )


def _evaluated(families: dict[str, list[RunFiles]], sets: Sequence[str], points: int) -> JsonDict:
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
    lines = _lines(families, [(name, of_set(name)) for name in sets], points)
    return {"title": "Reward on fixed prompts", "text": text, "kind": "line", "lines": lines}


def _stages(run: RunFiles, several: bool, points: int) -> JsonDict:
    """The seconds of each stage, and as "other" the rest of the step."""
    metrics = run.metrics
    steps = [row["step"] for row in metrics]
    stages = {stage: [row.get(f"seconds/{stage}") or 0.0 for row in metrics] for stage in STAGES}
    whole = [row.get("seconds/step") or 0.0 for row in metrics]
    used = [math.fsum(parts) for parts in zip(*stages.values(), strict=True)]
    stages["other"] = [max(0.0, step - part) for step, part in zip(whole, used, strict=True)]
    total = math.fsum(map(math.fsum, stages.values()))
    lines = [
        drawn(Series(f"{stage} {math.fsum(seconds) / total:.0%}", steps, seconds), points)
        | {"run": 0, "part": part}
        for part, (stage, seconds) in enumerate(stages.items())
        if any(seconds)
    ]
    title = f"Time of a step: {run.label}" if several else "Time of a step"
    return {"title": title, "text": "seconds by stage", "kind": "stack", "lines": lines}
