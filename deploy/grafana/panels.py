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
# step takes minutes: over a shorter window most points would have no step to tell of.
WINDOW = "30m"
COLUMNS = 24  # width of Grafana's grid

Panel = timeseries.Panel | stat.Panel | statetimeline.Panel
PanelType = TypeVar("PanelType", timeseries.Panel, stat.Panel, statetimeline.Panel)


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and the name of its curves: ``{{label}}`` is a label's value."""

    expr: str
    legend: str


def of_run(name: str, **labels: str) -> str:
    """Select a metric of the chosen run and attempts, and of the labels' values if any are given.

    Example: ``of_run("eg_grpo_entropy_mean", modality="cot")``.
    """
    chosen = {"run": '="$run"', "attempt": '=~"$attempt"'}
    chosen |= {label: f'="{value}"' for label, value in labels.items()}
    return f"{name}{{{','.join(label + matcher for label, matcher in chosen.items())}}}"


def rate(name: str, **labels: str) -> str:
    """How fast a counter of the chosen run rises, per second."""
    return f"rate({of_run(name, **labels)}[{WINDOW}])"


def lines(
    title: str,
    description: str,
    unit: str,
    no_value: str,
    *queries: Query,
    lowest: float | None = None,
    highest: float | None = None,
    stacked: bool = False,
) -> timeseries.Panel:
    """Curves over time, three panels side by side. ``no_value`` says why there may be none."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).no_value(no_value)
    panel.datasource(DATA_SOURCE).height(8).span(8)
    panel.show_points(VisibilityMode.NEVER).fill_opacity(50 if stacked else 5).line_width(1)
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
    no_value: str,
    query: Query,
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
    title: str, description: str, unit: str, no_value: str, *queries: Query
) -> statetimeline.Panel:
    """One band for each curve, coloured where the curve has a value: when was what."""
    panel = statetimeline.Panel().title(title).description(description).unit(unit)
    panel.no_value(no_value).datasource(DATA_SOURCE).height(8).span(8)
    panel.show_value(VisibilityMode.NEVER)
    return _asking(panel, queries)


def _asking(panel: PanelType, queries: Sequence[Query]) -> PanelType:
    for place, query in enumerate(queries):
        asked = Dataquery().expr(query.expr).legend_format(query.legend).range()
        panel.with_target(asked.ref_id(chr(ord("A") + place)).datasource(DATA_SOURCE))
    return panel
