"""Writes report.html of a run folder: one file that loads nothing else, at any time of a run.

Failure policy: a missing row or picture leaves a gap. Only a folder without a run is an error.
Prompts and CoTs could hold HTML, so they are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from orchestrator.record.metrics import STAGES, STEP_METRICS, find
from orchestrator.record.progress import duration
from orchestrator.record.run_folder import read_rows
from orchestrator.report.charts import Series, error_bar_chart, line_chart, stacked_chart
from orchestrator.report.comparison import change_table, compare, evaluated_sets, headline
from orchestrator.report.gallery import galleries
from policy.disk import write_whole
from policy.errors import UserError
from policy.secrets import masked_tree
from policy.text_files import read_text
from policy.types import JsonDict
from policy.yaml_text import dump, parse

_SHORT_COT = 140  # characters of a longer CoT that show until a click opens it
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


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` of a run folder, finished or not; returns its path.

    Raises ``UserError`` if the folder holds neither metrics nor evaluations.
    """
    metrics = read_rows(run_folder / "metrics.jsonl")
    evaluations = read_rows(run_folder / "evaluations.jsonl")
    if not metrics and not evaluations:
        raise UserError(f"{run_folder} holds no run: no row in metrics.jsonl or evaluations.jsonl")
    samples = run_folder / "samples"
    settings_file = run_folder / "config.yaml"
    settings = read_text(settings_file) if settings_file.is_file() else ""
    config = parse(settings, str(settings_file)) or {}
    last_step = max((row["step"] for row in metrics), default=0)
    sets = evaluated_sets(evaluations)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed}
    page = environment.get_template("report.html.j2").render(
        name=config.get("name", run_folder.name),
        last_step=last_step,
        planned_steps=config.get("steps"),
        duration=duration(math.fsum(row.get("seconds/step") or 0 for row in metrics)),
        comparisons=[compare(label, rows) for label, rows in sets.items()],
        alarms=_alarms(metrics),
        charts=_charts(metrics, sets),
        stage_chart=_stage_chart(metrics),
        galleries=galleries(read_rows(samples / "records.jsonl"), samples),
        set_names=list(sets),
        table=change_table(sets),
        settings=dump(masked_tree(config)) if config else "",
        short_cot=_SHORT_COT,
    )
    report = run_folder / "report.html"
    write_whole(report, page)
    return report


def headlines(run_folder: Path) -> list[str]:
    """One line for each fixed set; the command ``train`` ends by printing them."""
    sets = evaluated_sets(read_rows(run_folder / "evaluations.jsonl"))
    return [headline(compare(label, rows)) for label, rows in sets.items()]


def _alarms(metrics: Sequence[JsonDict]) -> list[JsonDict]:
    """Each alarm once, with its count and its first and last step. The most frequent is first."""
    steps: dict[str, list[int]] = {}
    for row in metrics:
        for alarm in row.get("alarms") or ():
            steps.setdefault(alarm, []).append(row["step"])
    found = [
        {"text": text, "count": len(at), "first": at[0], "last": at[-1]}
        for text, at in steps.items()
    ]
    return sorted(found, key=lambda alarm: -alarm["count"])


def _charts(
    metrics: Sequence[JsonDict], sets: dict[str, list[JsonDict]]
) -> list[tuple[str, str, Markup]]:
    """Title, caption and SVG of every chart that has a value to draw."""
    evaluated = [
        Series(
            label,
            [row["step"] for row in rows],
            [row["reward/mean"] for row in rows],
            [row["reward/standard_error"] for row in rows],
        )
        for label, rows in sets.items()
        if any(row["reward/mean"] is not None for row in rows)
    ]
    charts = []
    if evaluated:
        text = "same prompts and seeds at every step; plus and minus one standard error"
        charts.append(("Reward on fixed prompts", text, Markup(error_bar_chart(evaluated))))
    keys = dict.fromkeys(key for row in metrics for key in row)
    each = {
        key: key.partition("/")[2]
        for key in keys
        if (metric := find(key)) and metric.key in _EACH_REWARD
    }
    lines = [
        ("Reward in training", _meaning("reward/mean"), {"reward/mean": "total"}),
        ("Each reward in training", "with details of rewards; unweighted, mean of a step", each),
        *_CHARTS,
    ]
    for title, text, labels in lines:
        series = [one for key, label in labels.items() if (one := _series(metrics, key, label))]
        if series:
            charts.append((title, text, Markup(line_chart(series))))
    return charts


def _series(metrics: Sequence[JsonDict], key: str, label: str) -> Series | None:
    series = Series(label, [row["step"] for row in metrics], [row.get(key) for row in metrics])
    return series if series.present else None


def _stage_chart(metrics: Sequence[JsonDict]) -> Markup | None:
    """The seconds of each stage, and as "other" the rest of the step."""
    steps = [row["step"] for row in metrics]
    stages = {stage: [row.get(f"seconds/{stage}") or 0.0 for row in metrics] for stage in STAGES}
    whole = [row.get("seconds/step") or 0.0 for row in metrics]
    used = [math.fsum(parts) for parts in zip(*stages.values(), strict=True)]
    stages["other"] = [max(0.0, step - part) for step, part in zip(whole, used, strict=True)]
    total = math.fsum(map(math.fsum, stages.values()))
    if not total:
        return None
    return Markup(
        stacked_chart(
            [
                Series(f"{stage} {math.fsum(seconds) / total:.0%}", steps, seconds)
                for stage, seconds in stages.items()
                if any(seconds)
            ]
        )
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    """The number with its sign. The minus sign is the typographic one, as wide as a plus."""
    text = _number(value, digits)
    return text if text == "–" else f"{value:+.{digits}f}".replace("-", "−")
