"""The dashboard and the rules, asked of a real Prometheus that scraped a short real run.

A panel without data looks like a run without trouble, so no query may be empty.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request

import promql_parser
import pytest
import yaml
from promql_operands import operands
from scraped_run import RULES, ScrapedRun, scraped_run

from deploy.grafana.build import build
from deploy.grafana.coverage import queries, selected
from orchestrator.record.exported import EXPORTED

# Metrics that this run cannot have, so that nothing is asked about them alone: no alert fires, and
# there need not be a GPU.
ABSENT = {"ALERTS", "ray_node_gpus_utilization", "ray_node_gram_used"}

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
__all__ = ["scraped_run"]  # a fixture, which pytest finds by its name


def in_grafana(expr: str) -> str:
    """The expression as Grafana sends it when the run and all of its attempts are chosen."""
    return expr.replace("$run", "scraped").replace("$attempt", ".+")


def test_every_metric_of_the_table_is_scraped(scraped_run: ScrapedRun) -> None:
    """None of the exported metrics is a name without a series."""
    names = [f"{m.name}_count" if m.kind == "histogram" else m.name for m in EXPORTED]
    assert [name for name in names if not scraped_run.query(name)] == []


def test_every_panel_has_data(scraped_run: ScrapedRun) -> None:
    """Each query of each panel gives a series, those about Ray and the host too. Left out are the
    bands of alerts, of which none fires, and the two panels about GPUs."""
    pairs = list(queries(build()))
    asked = [(title, expr) for title, expr in pairs if selected(expr) - ABSENT]
    empty = [pair for pair in asked if not scraped_run.query(in_grafana(pair[1]))]
    assert not empty
    left_out = sorted({title for title, _ in pairs} - {title for title, _ in asked})
    assert left_out == ["Alerts that fire", "GPU memory in use", "GPUs in use"]
    assert len(asked) > 75


def test_every_rule_has_data(scraped_run: ScrapedRun) -> None:
    """Each recording rule was recorded. What each alert compares is there, with labels that match:
    an alert that never can fire is silent in the same way as one of a run that is well."""
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    asked = [rule["record"] for rule in rules if "record" in rule]
    asked += [part for rule in rules for part in operands(rule["expr"])]
    empty = [expr for expr in asked if not scraped_run.query(in_the_run(expr))]
    assert not empty
    assert len(asked) > 30


def in_the_run(expr: str) -> str:
    """The expression, or for a plain metric its last value in the run. There is one stage at a
    time, so that the others have no series at one moment."""
    if isinstance(promql_parser.parse(expr), promql_parser.VectorSelector):
        return f"last_over_time({expr}[10m])"
    return expr


def test_the_run_can_be_chosen_after_its_end(scraped_run: ScrapedRun) -> None:
    """The variables of the dashboard are the values that a label has in a time range. Grafana asks
    for them in this way."""
    queries_of = {v["name"]: v["query"] for v in build()["templating"]["list"]}
    runs, attempts = (in_grafana(queries_of[name]) for name in ("run", "attempt"))
    assert label_values(scraped_run, runs) == ["scraped"]
    assert label_values(scraped_run, attempts) == ["1"]


def label_values(scraped_run: ScrapedRun, query: str) -> list[str]:
    """What Grafana's ``label_values(series, label)`` gives for the minute around the run."""
    series, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    asked = urllib.parse.urlencode(
        {"match[]": series, "start": scraped_run.at - 30, "end": scraped_run.at + 30}
    )
    url = f"{scraped_run.prometheus.url}/api/v1/label/{label}/values?{asked}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: list[str] = json.load(answer)["data"]
    return found
