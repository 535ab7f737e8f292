"""Compares the dashboard with the table of metrics: what one of the two has and the other lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser

JsonDict = dict[str, Any]


def panels(dashboard: JsonDict) -> list[JsonDict]:
    """The panels of a dashboard in its JSON form, without the headings of its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: JsonDict) -> Iterator[tuple[str, str]]:
    """Title of a panel and PromQL expression, for each query of each panel."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def selected(expr: str) -> set[str]:
    """Names of the metrics that a PromQL expression selects; raises ``ValueError`` for no PromQL."""
    names: set[str] = set()

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expr), note)
    return names
