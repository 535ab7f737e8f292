"""What the panels of the dashboard have in common: the data source, the run, the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import common, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Rates and quantiles are taken over this window. It holds several steps of a large model, whose
# step takes minutes. Over a shorter window most points would have no step to tell of.
WINDOW = "30m"
NO_STEP = "no step in this time range"

Panel = timeseries.Panel | stat.Panel | statetimeline.Panel
PanelType = TypeVar("PanelType", timeseries.Panel, stat.Panel, statetimeline.Panel)


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and the name of its curves: ``{{label}}`` is a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Row:
    """A heading of the dashboard, and the panels below it from left to right."""

    title: str
    panels: Sequence[Panel]


def of_run(name: str, **labels: str) -> str:
    """Select a metric of the chosen run and attempts, and of the labels' values if any are given.

    Example: ``of_run("eg_grpo_entropy_mean", modality="cot")``.
    """
    chosen = {"run": '="$run"', "attempt": '=~"$attempt"'}
    chosen |= {label: f'="{value}"' for label, value in labels.items()}
    return f"{name}{{{','.join(label + matcher for label, matcher in chosen.items())}}}"


def value(name: str, legend: str, **labels: str) -> Query:
    """The value of a metric over time, one curve for each value of the labels in ``legend``.

    Attempts follow each other, so the curve of a run that was resumed goes on under one name.
    """
    return Query(f"max{_by(legend)} ({of_run(name, **labels)})", legend)


def rise(name: str, legend: str) -> Query:
    """By how much a counter rose within the window, one curve for each value of the labels."""
    return Query(f"sum{_by(legend)} (increase({of_run(name)}[{WINDOW}]))", legend)


def mean_of(histogram: str, legend: str, **labels: str) -> Query:
    """The mean of what a histogram counted within the window."""
    total, count = (
        f"sum{_by(legend)} (rate({of_run(f'{histogram}_{part}', **labels)}[{WINDOW}]))"
        for part in ("sum", "count")
    )
    return Query(f"{total} / ({count} > 0)", legend)


def _by(legend: str) -> str:
    """The labels that a legend names, as PromQL's ``by`` clause: ``{{role}} {{state}}``."""
    labels = [part.partition("}}")[0] for part in legend.split("{{")[1:]]
    return f" by ({', '.join(labels)})" if labels else ""


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    no_value: str = NO_STEP,
    lowest: float | None = None,
    highest: float | None = None,
    stacked: bool = False,
) -> timeseries.Panel:
    """Curves over time, three panels side by side. ``no_value`` says why there may be none."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).no_value(no_value)
    panel.datasource(DATA_SOURCE).height(8).span(8)
    panel.show_points(VisibilityMode.AUTO).fill_opacity(50 if stacked else 5).line_width(1)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(
        common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    )
    if lowest is not None:
        panel.min(lowest)
    if highest is not None:
        panel.max(highest)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return _asking(panel, queries)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    no_value: str = NO_STEP,
    red_from: float | None = None,
) -> stat.Panel:
    """The newest value in large type, six side by side. It is red from ``red_from`` upwards."""
    panel = stat.Panel().title(title).description(description).unit(unit).no_value(no_value)
    panel.datasource(DATA_SOURCE).height(4).span(4)
    panel.graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    steps = [Threshold(color="green", value=None)]
    if red_from is not None:
        steps.append(Threshold(color="red", value=red_from))
    panel.thresholds(builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return _asking(panel, [query])


def bands(
    title: str, description: str, unit: str, *queries: Query, no_value: str
) -> statetimeline.Panel:
    """One band over the whole width for each curve, coloured while the curve has a value."""
    panel = statetimeline.Panel().title(title).description(description).unit(unit)
    panel.no_value(no_value).datasource(DATA_SOURCE).height(6).span(24)
    panel.show_value(VisibilityMode.NEVER)
    return _asking(panel, queries)


def _asking(panel: PanelType, queries: Sequence[Query]) -> PanelType:
    for place, query in enumerate(queries):
        asked = Dataquery().expr(query.expr).legend_format(query.legend).range()
        panel.with_target(asked.ref_id(chr(ord("A") + place)).datasource(DATA_SOURCE))
    return panel
