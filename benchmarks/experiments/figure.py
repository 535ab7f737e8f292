"""Draws reward over evaluation guidance, for every way to sample and to train."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import TYPE_CHECKING

from benchmarks.cells import half_width
from benchmarks.experiments.arms import METHODS, SCALES, WORLDS
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import VERSIONS_DIFFER, unreported, value, values
from benchmarks.experiments.studies import STUDIES, Outcome, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = dict(zip(METHODS, ("#2f66b0", "#d9822b", "#b0392f", "#4c9a52"), strict=True))
_LINES = {"seen": "-", "held_out": "--"}


def draw(records: Records, folder: Path) -> list[Path]:
    """One figure for each world that has a finished study, as PNG and SVG; returns the files."""
    return [file for world in WORLDS for file in _world(world, records, folder)]


def _world(world: str, records: Records, folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    of_world = [study for study in STUDIES if study.name.startswith(f"{world}-")]
    reasons = {study.name: unreported(study, records) for study in of_world}
    studies = [study for study in of_world if reasons[study.name] is None]
    if not studies:
        return []
    differ = [name for name, reason in reasons.items() if reason and VERSIONS_DIFFER in reason]
    width = 3.4 * max(len(studies), 2) + 0.6  # inches; room for the legend
    figure = Figure(figsize=(width, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    for panel, study in zip(panels, sorted(studies, key=lambda s: s.name), strict=True):
        _panel(panel, study, records)
    panels[0].set_ylabel("reward after training")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8
    )
    caption = (
        "Reward over the guidance scale of evaluation. Solid: seen pairs, dashed: held-out pairs."
        " Grey: before training. Bars: 95 % intervals over seeds."
        + (f" {VERSIONS_DIFFER}: {', '.join(differ)}." if differ else "")
    )
    figure.suptitle(fill(caption, int(14 * width)), fontsize=9)
    files = [folder / f"guidance-{world}.{kind}" for kind in ("png", "svg")]
    for file in files:
        figure.savefig(file)
    return files


def _panel(panel: Axes, study: Study, records: Records) -> None:
    for name, line in _LINES.items():
        outcomes = [Outcome(name, scale) for scale in SCALES]
        before = [value(*study.before, outcome, records) for outcome in outcomes]
        panel.plot(SCALES, before, line, color="#8d96a0", lw=1)
        for arm in study.arms:
            found = [values(arm, study, outcome, records) for outcome in outcomes]
            panel.errorbar(
                SCALES,
                [mean(of_scale) for of_scale in found],
                [half_width(of_scale) for of_scale in found],
                fmt=line,
                color=_COLOURS[arm.label],
                label=arm.label if name == "seen" else None,
                lw=1.4,
                capsize=2,
            )
    panel.set_title(study.title.partition(", ")[2], fontsize=8)
    panel.set_xlabel("guidance scale of evaluation")
    panel.set_xticks(SCALES)
