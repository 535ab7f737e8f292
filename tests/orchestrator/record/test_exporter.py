"""The exporter by plain calls and by real scrapes: what it says, and what it leaves out."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.discovery import announced, target_of
from orchestrator.record.exported import (
    EXPORTED,
    FAILURE_REASONS,
    LABELS,
    NOT_EXPORTED,
    ROWS,
    failure_kind,
    markdown,
)
from orchestrator.record.exporter import Exporter, served
from orchestrator.record.metrics import STEP_METRICS
from orchestrator.record.snapshot import Snapshot
from policy.errors import UserError
from policy.types import JsonDict

ROOT = Path(__file__).parents[3]
SNAPSHOT = Snapshot(
    published=7,
    serving=(7, 5, None),
    workers={("rollout", "", "idle"): 2, ("reward", "hps", "scoring"): 1},
    queued={("rollout", ""): 0, ("reward", "hps"): 3},
    groups={"waiting": 0, "ready": 4},
    counts={"lost/rollout": 2, "dropped_data": 1, "late_refused": 5},
)


def row(step: int, **more: Any) -> JsonDict:
    return {"step": step, "time": 1.5e9, "groups/trained": 16, "seconds/step": 2.0, **more}


def exporter() -> Exporter:
    found = Exporter("shapes", attempt=2, steps=80, images_per_group=8)
    found.begin([])
    return found


def value(found: Exporter, name: str, **labels: str) -> float | None:
    """The value of one series with the common labels; None if it is not exported."""
    common = {"run": "shapes", "attempt": "2"}
    return found.registry.get_sample_value(f"eg_grpo_{name}", common | labels)


def test_the_page_is_the_table() -> None:
    """docs/exported.md is what ``python -m orchestrator.record.exported`` prints."""
    assert (ROOT / "docs" / "exported.md").read_text(encoding="utf-8") == markdown()


def test_every_metric_of_a_row_is_exported_or_has_a_reason() -> None:
    """Each name is there once, in base units, and has labels that the page explains."""
    assert {metric.key for metric in STEP_METRICS} == ROWS.keys() | NOT_EXPORTED.keys()
    assert not ROWS.keys() & NOT_EXPORTED.keys()
    names = [metric.name for metric in EXPORTED]
    assert len(set(names)) == len(names)
    for metric in EXPORTED:
        assert re.fullmatch(r"eg_grpo_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert set(metric.labels) <= LABELS.keys() - {"run", "attempt"}
        assert not re.search(r"[\n|]|\.$", metric.help), metric.name


def test_what_has_no_value_is_not_exported() -> None:
    """A gauge without a value, or with null in the row, is absent and not 0. The same holds when
    the next row has no value any more. Counters without labels begin at 0."""
    found = exporter()
    assert value(found, "loss") is None
    assert value(found, "weight_version_lag") is None
    assert value(found, "groups_trained_total") == 0
    found.step(row(1, loss=0.5, grad_norm=None))
    assert value(found, "loss") == 0.5
    assert value(found, "grad_norm") is None
    assert value(found, "tokens_per_second") is None
    found.step(row(2, loss=None))
    assert value(found, "loss") is None


def test_a_row_becomes_gauges_counters_and_histograms() -> None:
    """Placeholders of a key are labels. Counters add up over rows, and so do histograms."""
    found = exporter()
    more = {
        "entropy/cot/mean": 0.25,
        "detail/hps/a part": 0.75,
        "tokens/trained": 500,
        "rewards/failure_reasons": {"hps: no answer within 3 s": 2, "hps: dull": 1},
        "alarms": ["one", "two"],
        "seconds/learn": 1.5,
    }
    for step in (1, 2):
        found.step(row(step, **more))
    assert value(found, "step") == 2
    assert value(found, "entropy_mean", modality="cot") == 0.25
    assert value(found, "score_detail_mean", reward="hps", part="a part") == 0.75
    assert value(found, "groups_trained_total") == 32
    assert value(found, "scores_failed_by_reason_total", reward="hps", reason="timeout") == 4
    assert value(found, "scores_failed_by_reason_total", reward="hps", reason="reward") == 2
    assert value(found, "alarms") == 2
    assert value(found, "tokens_per_second") == 250
    assert value(found, "images_per_second") == 64
    assert value(found, "stage_seconds_bucket", stage="learn", le="1.0") == 0
    assert value(found, "stage_seconds_bucket", stage="learn", le="2.5") == 2
    assert value(found, "stage_seconds_sum", stage="learn") == 3
    assert value(found, "step_duration_seconds_count") == 2


def test_an_evaluation_stays_until_the_next_one() -> None:
    """Few steps have one, and a scrape may miss a step."""
    found = exporter()
    found.step(row(1, **{"evaluation/seen": 0.25}))
    found.step(row(2))
    assert value(found, "evaluation_reward_mean", set="seen") == 0.25
    found.step(row(3, **{"evaluation/seen": 0.5}))
    assert value(found, "evaluation_reward_mean", set="seen") == 0.5


def test_a_reward_may_not_make_any_number_of_series() -> None:
    """Of the parts that it names, the first 20 are exported, also of a later row."""
    found = exporter()
    found.step(row(1, **{f"detail/hps/{part}": 0.5 for part in range(30)}))
    found.step(row(2, **{f"detail/hps/{part}": 0.5 for part in range(29, -1, -1)}))
    values = [value(found, "score_detail_mean", reward="hps", part=str(p)) for p in range(30)]
    assert values == [0.5] * 20 + [None] * 10


def test_failed_scores_are_counted_from_0() -> None:
    """Prometheus sees no increase in the first value of a series."""
    found = Exporter("shapes", attempt=2, steps=80, images_per_group=8, rewards=["hps"])
    found.begin([])
    assert value(found, "scores_failed_total", reward="hps") == 0
    assert value(found, "scores_failed_by_reason_total", reward="hps", reason="worker") == 0


def test_counters_go_on_where_earlier_attempts_left_them() -> None:
    """The rows that a resumed run finds are in the counters, and not in the gauges."""
    found = exporter()
    found.begin([row(1, loss=1.0), row(2, loss=1.0)])
    assert value(found, "groups_trained_total") == 32
    assert value(found, "loss") is None
    found.step(row(3))
    assert value(found, "groups_trained_total") == 48


def test_the_driver_tells_what_goes_on_within_a_step() -> None:
    """Of version 7, two workers serve 7 and 5, and one has none yet. A state that no worker is in
    has 0 workers. What the ledger has never counted is 0."""
    found = exporter()
    found.snapshot(SNAPSHOT)
    assert value(found, "weight_version_lag") == 2
    assert value(found, "workers_behind") == 2
    assert value(found, "workers", role="rollout", reward="", state="idle") == 2
    assert value(found, "workers", role="rollout", reward="", state="lost") == 0
    assert value(found, "workers", role="reward", reward="hps", state="scoring") == 1
    assert value(found, "queued_batches", role="reward", reward="hps") == 3
    assert value(found, "groups", state="ready") == 4
    assert value(found, "workers_lost_total", role="rollout") == 2
    assert value(found, "groups_dropped_total", reason="data") == 1
    assert value(found, "groups_dropped_total", reason="infrastructure") == 0
    assert value(found, "ledger_late_refused_total") == 5


def test_the_stage_has_the_time_since_which_it_is_waited_for() -> None:
    """Turns of the same stage do not begin it anew, and a step does: a replay has one stage alone.
    Only one stage is there at a time."""
    found = exporter()
    began = value(found, "stage_start_timestamp_seconds", stage="start")
    assert began is not None
    found.stage("learn")
    first = value(found, "stage_start_timestamp_seconds", stage="learn")
    found.stage("learn")
    assert value(found, "stage_start_timestamp_seconds", stage="learn") == first
    assert value(found, "stage_start_timestamp_seconds", stage="start") is None
    time.sleep(0.01)
    found.step(row(1))
    again = value(found, "stage_start_timestamp_seconds", stage="learn")
    assert first is not None
    assert again is not None
    assert again > first


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("its worker died", "worker"),
        ("its worker is stopped", "worker"),
        ("no answer within 60 s", "timeout"),
        ("TimeoutError: the scorer", "timeout"),
        ("httpx.ReadTimeout: the scorer", "timeout"),
        ("ValueError: 3 results for 4 images", "error"),
        ("prompt 3: no request", "reward"),
        ("", "reward"),
    ],
)
def test_a_reason_is_of_one_of_few_kinds(reason: str, kind: str) -> None:
    """The sentence itself may be any text and cannot be a label."""
    assert failure_kind(reason) == kind
    assert kind in FAILURE_REASONS


def test_a_scrape_is_what_promtool_accepts() -> None:
    """``promtool check metrics`` has nothing to say about a scrape over HTTP. It listens on
    loopback alone, and on nothing once it has ended."""
    found = exporter()
    found.snapshot(SNAPSHOT)
    found.watch("eg_grpo_redis_away_seconds", lambda: 0.0)
    found.step(row(1, **{"loss": 0.5, "seconds/learn": 1.0, "tokens/trained": 9}))
    with served(found, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        with pytest.raises(
            UserError, match=rf"^metrics\.port: cannot listen at 127.0.0.1:{port}: "
        ):
            served(exporter(), "127.0.0.1", port).__enter__()
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)
    assert "eg_grpo_redis_away_seconds" in text
    if shutil.which("promtool") is None:
        reason = "promtool is not installed (Debian's package prometheus)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_discovery_files_are_there_while_the_run_is(tmp_path: Path) -> None:
    """The run folder and the root of all runs each have one, in the form of ``file_sd_configs``. A
    file that another driver wrote meanwhile stays."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    own, of_all = folder / "prometheus.json", tmp_path / ".prometheus" / "shapes.json"
    with announced(folder, "127.0.0.1:9464"):
        for file in (own, of_all):
            (target,) = json.loads(file.read_text(encoding="utf-8"))
            assert target["targets"] == ["127.0.0.1:9464"]
            # Prometheus keeps no label that begins with __meta.
            driver = f"{socket.gethostname()}:{os.getpid()}"
            assert target["labels"] == {"run": "shapes", "__meta_driver": driver}
        own.write_text("another driver's", encoding="utf-8")
    assert own.is_file()
    assert not of_all.exists()


def test_a_run_that_takes_an_address_removes_the_file_that_a_killed_run_left(
    tmp_path: Path,
) -> None:
    """Its metrics would else be scraped under the name of the other run as well. Files of other
    addresses stay, and of other hosts, and so does what is no discovery file."""
    (tmp_path / ".prometheus").mkdir()
    (tmp_path / "shapes").mkdir()
    here = socket.gethostname()
    for name, host, port in (("killed", here, 4), ("alive", here, 5), ("elsewhere", "gpu-9", 4)):
        labels = {"run": name, "__meta_driver": f"{host}:123"}
        text = json.dumps([{"targets": [f"127.0.0.1:946{port}"], "labels": labels}])
        (tmp_path / ".prometheus" / f"{name}.json").write_text(text, encoding="utf-8")
    (tmp_path / ".prometheus" / "other.json").write_text("[1]", encoding="utf-8")
    with announced(tmp_path / "shapes", "127.0.0.1:9464"):
        found = sorted(file.stem for file in (tmp_path / ".prometheus").iterdir())
    assert found == ["alive", "elsewhere", "other", "shapes"]


@pytest.mark.parametrize(
    ("host", "target"),
    [("127.0.0.1", "127.0.0.1:9"), ("::1", "[::1]:9"), ("gpu-1", "gpu-1:9")],
)
def test_a_target_is_an_address_that_can_be_reached(host: str, target: str) -> None:
    """An address of IPv6 has brackets. A wildcard is no address: the machine's name is."""
    assert target_of(host, 9) == target
    assert target_of("0.0.0.0", 9) == target_of("::", 9)
    assert not target_of("0.0.0.0", 9).startswith("0")
