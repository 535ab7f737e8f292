"""Writes the dashboard, ``deploy/grafana/eg-grpo.json``, for import into Grafana.

    python -m deploy.grafana.build
    python -m deploy.grafana.build --check

With ``--check`` nothing is written. The exit code is 1 when the file is not what this code builds,
when a panel asks for a metric that nobody exports, or when an exported metric has neither a panel
nor a reason (``deploy/grafana/coverage.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.algorithm_rows import ENTROPY, LEARNING, REWARDS
from deploy.grafana.coverage import JsonDict, gaps
from deploy.grafana.panels import DATA_SOURCE
from deploy.grafana.system_rows import GLANCE, HOSTS, PIPELINE, WEIGHTS, WORKERS

FILE = Path(__file__).parent / "eg-grpo.json"
ROWS = (GLANCE, LEARNING, ENTROPY, REWARDS, PIPELINE, WEIGHTS, WORKERS, HOSTS)


def build() -> JsonDict:
    """The dashboard in Grafana's JSON form."""
    dashboard = (
        builders.Dashboard("EG-GRPO")
        .uid("eg-grpo")
        .description("A run of EG-GRPO at a glance. docs/dashboard.md says how to read it.")
        .tags(["eg-grpo"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .with_variable(
            builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(_chosen("run", "eg_grpo_start_timestamp_seconds").label("Run"))
        .with_variable(
            _chosen("attempt", 'eg_grpo_start_timestamp_seconds{run="$run"}')
            .label("Attempt")
            .description("The number of the driver: 1 at first, one more after each --resume.")
            .multi(True)
            .include_all(True)
            .current(VariableOption(text="All", value="$__all"))
        )
        .annotation(
            builders.AnnotationQuery()
            .name("Alerts")
            .datasource(DATA_SOURCE)
            .expr('ALERTS{run="$run",alertstate="firing"}')
            .icon_color("red")
        )
    )
    for row in ROWS:
        dashboard.with_row(builders.Row(row.title))
        for panel in row.panels:
            dashboard.with_panel(panel)
    built: JsonDict = json.loads(JSONEncoder().encode(dashboard.build()))
    for number, panel in enumerate(built["panels"], start=1):
        panel["id"] = number  # Grafana would number them at import, and each save would differ
    return built


def _chosen(label: str, series: str) -> builders.QueryVariable:
    """A variable with the values that a label has within the chosen time range.

    So runs that have ended can be chosen too.
    """
    return (
        builders.QueryVariable(label)
        .datasource(DATA_SOURCE)
        .query(f"label_values({series}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_DESC)
    )


def text(dashboard: JsonDict) -> str:
    """What the file holds."""
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    dashboard = build()
    wrong = gaps(dashboard)
    if check and (not FILE.exists() or FILE.read_text(encoding="utf-8") != text(dashboard)):
        wrong.append(f"{FILE.name} is not what the code builds: python -m deploy.grafana.build")
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not check:
        FILE.write_text(text(dashboard), encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
