"""What a run opens to be looked at, and that it shows a Redis which is away."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.telemetry import open_telemetry
from orchestrator.record.exporter import Exporter
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import load_config
from tests.redis_server import between, redis_server

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"
ROW = {"step": 1, "time": 1.5e9, "groups/trained": 16, "seconds/step": 2.0, "loss": 0.5}


def test_a_row_reaches_the_endpoint_and_the_sinks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line that is printed, and the file in the run folder, name the address at which the row
    is found. The files of a sink lie in the run folder. Without a port there is no endpoint."""
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(SHAPES.parents[1])
    said: list[str] = []
    words = [f"root={tmp_path}", "metrics.tensorboard=true"]
    folder = RunFolder(tmp_path / "shapes")
    with open_telemetry(load_config(SHAPES, words), folder, 3, "id", 80) as telemetry:
        telemetry.announce(said.append)
        telemetry.exporter.begin([])
        telemetry.step(ROW)
        ((target,),) = (
            found["targets"] for found in json.loads((folder.path / "prometheus.json").read_text())
        )
        assert said == [f"metrics for Prometheus at http://{target}/metrics"]
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    assert target.startswith("127.0.0.1:")
    assert 'eg_grpo_loss{attempt="3",run="shapes"} 0.5\n' in text
    assert list((folder.path / "tensorboard").iterdir())
    assert not (folder.path / "prometheus.json").exists()
    words[1] = "metrics.port=null"
    with open_telemetry(load_config(SHAPES, words), folder, 3, "id", 80) as telemetry:
        telemetry.announce(said.append)
        assert len(said) == 1
        assert not (folder.path / "prometheus.json").exists()
    folder.close()


def test_a_redis_that_is_away_is_seen_while_the_driver_waits(tmp_path: Path) -> None:
    """Redis answers nothing while a thread writes to it: a scrape says for how long it waits, and
    does not wait itself. When Redis answers again, the time is 0."""
    exporter = Exporter("shapes", 1, 9, 8)

    def away() -> float:
        labels = {"run": "shapes", "attempt": "1"}
        found = exporter.registry.get_sample_value("eg_grpo_redis_away_seconds", labels)
        assert found is not None
        return found

    with redis_server(tmp_path) as url, between(url) as proxy:
        ledger = Ledger.take(f"redis://{proxy.place}", "away", 0, lambda text: None, timeout_s=60)
        exporter.watch("eg_grpo_redis_away_seconds", lambda: ledger.away_s)
        ledger.count("once")
        assert away() == 0
        proxy.answers_to_lose = 1_000_000
        writer = threading.Thread(target=ledger.count, args=("once",))
        writer.start()
        deadline = time.monotonic() + 60
        while away() == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert away() > 0
        proxy.answers_to_lose = 0
        writer.join(60)
        assert away() == 0
        assert ledger.counts() == {"once": 2}
