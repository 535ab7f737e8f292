"""Compares the dashboard with the table of exported metrics: what one of the two lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from orchestrator.record.exported import EXPORTED

JsonDict = dict[str, Any]

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
# Metrics that are asked for and that no run exports: name -> where they come from.
OTHERS = {
    "ALERTS": "Prometheus makes it of the alert rules; it is empty while nothing is wrong",
    "node_cpu_seconds_total": "node_exporter, which runs beside the run on its host",
    "node_memory_MemAvailable_bytes": "node_exporter",
    "node_memory_MemTotal_bytes": "node_exporter",
    "ray_node_cpu_utilization": "Ray's own endpoint, one on each host",
    "ray_node_disk_utilization_percentage": "Ray's own endpoint",
    "ray_node_gpus_utilization": "Ray's own endpoint, with a GPU",
    "ray_node_gram_used": "Ray's own endpoint, with a GPU",
    "ray_node_mem_total": "Ray's own endpoint",
    "ray_node_mem_used": "Ray's own endpoint",
}
# Exported metrics that no panel shows, and why.
WITHOUT_PANEL: dict[str, str] = {}


def queries(dashboard: JsonDict) -> Iterator[tuple[str, str]]:
    """Title of the panel and PromQL expression, for each query of each panel."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def recorded() -> dict[str, str]:
    """The PromQL expression of each recording rule, by the name that the rule records."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["record"]: rule["expr"] for rule in rules if "record" in rule}


def selected(expr: str) -> set[str]:
    """Names of the metrics that PromQL selects; raises ``ValueError`` for what is no PromQL."""
    names: set[str] = set()

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expr), note)
    return names


def gaps(dashboard: JsonDict) -> list[str]:
    """One sentence for each metric that is asked for in vain, or exported and never shown."""
    rules, samples = recorded(), dict(_samples())
    asked = {name: title for title, expr in queries(dashboard) for name in selected(expr)}
    for record, expr in rules.items():
        if record in asked:
            asked |= dict.fromkeys(selected(expr), f"rule {record}")
    known = samples.keys() | rules.keys() | OTHERS.keys()
    shown = {samples[name] for name in asked if name in samples}
    exported = {metric.name for metric in EXPORTED}
    return [
        *(f"{where}: nobody exports {name}" for name, where in asked.items() if name not in known),
        *(f"{name} has no panel" for name in sorted(exported - shown - WITHOUT_PANEL.keys())),
        *(f"{name} has a panel: drop its reason" for name in sorted(shown & WITHOUT_PANEL.keys())),
        *(f"no panel asks for {name}" for name in sorted(OTHERS.keys() - asked.keys())),
    ]


def _samples() -> Iterator[tuple[str, str]]:
    """Name in a scrape and name in the table: a histogram has three in a scrape."""
    for metric in EXPORTED:
        parts: Sequence[str] = ("",)
        if metric.kind == "histogram":
            parts = ("_bucket", "_sum", "_count")
        yield from ((metric.name + part, metric.name) for part in parts)
