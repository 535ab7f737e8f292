"""The code of the dashboard: its JSON file, its panels, and the check that holds it against the
table of exported metrics."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deploy.grafana.build import FILE, build, text
from deploy.grafana.coverage import OTHERS, gaps, queries, recorded

ROOT = Path(__file__).parents[2]
DASHBOARD = build()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def without(dashboard: dict[str, Any], title: str) -> dict[str, Any]:
    panels = [panel for panel in dashboard["panels"] if panel["title"] != title]
    assert len(panels) == len(dashboard["panels"]) - 1
    return dashboard | {"panels": panels}


def asking(expr: str) -> dict[str, Any]:
    """The dashboard with one more panel."""
    panel = {"title": "Another", "type": "timeseries", "targets": [{"expr": expr}]}
    return DASHBOARD | {"panels": [*DASHBOARD["panels"], panel]}


def test_the_file_is_what_the_code_builds() -> None:
    """``--check`` as a user runs it finds nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.grafana.build", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(FILE.read_text(encoding="utf-8")) == DASHBOARD


def test_check_refuses_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--check`` fails and writes nothing when the file differs by one title."""
    from deploy.grafana import build as command

    file = tmp_path / "eg-grpo.json"
    changed = text(DASHBOARD).replace('"title": "Loss"', '"title": "Losses"')
    assert changed != text(DASHBOARD)
    file.write_text(changed, encoding="utf-8")
    monkeypatch.setattr(command, "FILE", file)
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1
    assert file.read_text(encoding="utf-8") == changed


def test_check_refuses_a_metric_that_nobody_exports() -> None:
    """A histogram has no series of its own name, a counter none without ``_total``, and a metric of
    another program must be known."""
    assert gaps(asking("rate(eg_grpo_stage_seconds[5m])")) == [
        "Another: nobody exports eg_grpo_stage_seconds"
    ]
    assert gaps(asking("eg_grpo_groups_trained")) == [
        "Another: nobody exports eg_grpo_groups_trained"
    ]
    assert gaps(asking("vllm:num_requests_running")) == [
        "Another: nobody exports vllm:num_requests_running"
    ]


def test_check_refuses_an_exported_metric_without_a_panel() -> None:
    """A metric needs a panel of its own, or a panel of a recording rule that reads it."""
    assert gaps(without(DASHBOARD, "Loss")) == ["eg_grpo_loss has no panel"]
    assert gaps(without(DASHBOARD, "Lost workers")) == ["eg_grpo_workers_lost_total has no panel"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_explains_itself(panel: dict[str, Any]) -> None:
    """A panel has a title of its own, a unit, a sentence about what it shows, and a text for when
    it has nothing to show."""
    assert [other["title"] for other in PANELS].count(panel["title"]) == 1
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert len(defaults["noValue"].split()) > 2
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_do_not_overlap() -> None:
    """Each cell of Grafana's grid, 24 cells wide, has one panel."""
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_the_data_source_is_chosen() -> None:
    """No panel, query, variable or annotation names a data source of one Grafana."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    sources = [variables[name]["datasource"] for name in ("run", "attempt")]
    sources += [note["datasource"] for note in DASHBOARD["annotations"]["list"]]
    for panel in PANELS:
        sources += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == chosen for source in sources)
    assert variables["datasource"]["query"] == "prometheus"


def test_the_run_is_chosen_among_those_of_the_time_range() -> None:
    """Both variables are asked for again when the time range changes, and the attempts are those
    of the chosen run."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "run", "attempt"]
    assert variables["run"]["query"] == "label_values(eg_grpo_start_timestamp_seconds, run)"
    assert variables["attempt"]["query"] == (
        'label_values(eg_grpo_start_timestamp_seconds{run="$run"}, attempt)'
    )
    on_time_range_changed = 2
    assert variables["run"]["refresh"] == on_time_range_changed
    assert variables["attempt"]["refresh"] == on_time_range_changed


def test_each_query_is_about_the_chosen_run() -> None:
    """Every metric of a run, recorded ones too, is selected by the run and its attempts."""
    found: list[str] = []

    def check(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector) and "eg_grpo_" in (node.name or ""):
            found.append(str(node.name))
            matchers = {str(matcher) for matcher in node.matchers.matchers}
            assert {'run="$run"', 'attempt=~"$attempt"'} <= matchers, str(node)

    for _, expr in queries(DASHBOARD):
        promql_parser.walk(promql_parser.parse(expr), check)
    assert len(found) > 60
    assert set(recorded()) <= set(found)  # no rule is recorded for nobody


def test_ray_still_has_the_metrics_that_panels_ask_for() -> None:
    """Their names are in the source of Ray's agent, which adds the prefix."""
    folder = importlib.util.find_spec("ray")
    assert folder is not None
    assert folder.origin is not None
    agent = Path(folder.origin).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    source = agent.read_text(encoding="utf-8")
    asked = [name.removeprefix("ray_") for name in OTHERS if name.startswith("ray_")]
    assert [name for name in asked if f'"{name}"' not in source] == []
