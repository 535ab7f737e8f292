"""What the driver tells the exporter: its counters are those of a real ledger."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.stand_ins import Seconds, SleepingPublisher, stand_in_stages
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_folder import open_ledger, read_run
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.step_row import step_row
from orchestrator.pipeline.take_snapshot import take_snapshot
from orchestrator.record.exporter import Exporter
from orchestrator.record.snapshot import Snapshot
from orchestrator.settings.ledger_config import LedgerConfig
from orchestrator.settings.run_config import load_config

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"


def value(exporter: Exporter, name: str, **labels: str) -> float | None:
    common = {"run": "shapes", "attempt": "1"}
    return exporter.registry.get_sample_value(f"eg_grpo_{name}", common | labels)


def snapshot_of(ledger: Ledger, schedule: Schedule) -> Snapshot:
    """The snapshot of pools that have nothing here but the properties that are read."""
    rollout: Any = SimpleNamespace(states={"rollout worker 0": "idle", "rollout worker 1": "lost"})
    scorers = SimpleNamespace(states={"reward worker hps/0": "scoring"}, queued=3)
    rewards: Any = SimpleNamespace(pools={"hps": scorers})
    return take_snapshot(schedule, rollout, rewards, "learning", 2, ledger)


def test_counters_are_the_totals_of_the_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After losses, groups that were released, dropped and late, and a fall back: each count of the
    ledger is the value of a counter, and no other counter of it is above 0."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    exporter = Exporter("shapes", 1, 80, 8)
    with open_ledger(LedgerConfig(), tmp_path, lambda text: None) as ledger:
        ledger.admit(0, 4)
        claims = ledger.lease(0, [0, 1, 2, 3], "rollout worker 0", 60, draw=0)
        ledger.release(claims[:1], "a worker died", "infrastructure")
        ledger.release(claims[:1], "a worker died", "infrastructure")  # too late: it waits already
        ledger.drop(claims[1:2], "poison", "data")
        ledger.sampled(claims[2:], 0)
        ledger.scored(claims[2:])
        again = ledger.lease(0, [0], "rollout worker 0", 60, draw=0)
        ledger.sampled(again, 0)
        ledger.scored(again)
        ledger.commit(0, 1, [*again, *claims[2:]])
        ledger.fall_back(0)
        ledger.count("lost/rollout", by=3)
        exporter.snapshot(snapshot_of(ledger, Schedule(Layout(1, 1), 4, 0, 9)))
        counts = dict(ledger.view().counts)
    assert counts == {
        "dropped_data": 1,
        "late_refused": 1,
        "lost/rollout": 3,
        "released_infrastructure": 1,
        "steps_repeated": 1,
    }
    assert value(exporter, "groups_dropped_total", reason="data") == 1
    assert value(exporter, "groups_dropped_total", reason="infrastructure") == 0
    assert value(exporter, "ledger_late_refused_total") == 1
    assert value(exporter, "workers_lost_total", role="rollout") == 3
    assert value(exporter, "workers_lost_total", role="reward") == 0
    assert value(exporter, "workers_lost_total", role="learner") == 0
    assert value(exporter, "groups_released_total", reason="infrastructure") == 1
    assert value(exporter, "groups_released_total", reason="data") == 0
    assert value(exporter, "steps_repeated_total") == 1
    assert value(exporter, "ledger_rebuilt_total") == 0


def test_groups_and_workers_are_counted_by_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker samples one of the two batches of the step. It serves version 0, as is published."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    schedule = Schedule(Layout(1, 2), 4, 0, 9)
    schedule.publish(0)
    schedule.worker_up("rollout worker 0")
    schedule.take_orders()
    schedule.worker_loaded("rollout worker 0", 0)
    schedule.take_orders()
    with open_ledger(LedgerConfig(), tmp_path, lambda text: None) as ledger:
        found = snapshot_of(ledger, schedule)
    assert found == Snapshot(
        published=0,
        serving=[0],
        workers={
            ("rollout", "", "idle"): 1,
            ("rollout", "", "lost"): 1,
            ("reward", "hps", "scoring"): 1,
            ("learner", "", "learning"): 2,
        },
        queued={("rollout", ""): 1, ("reward", "hps"): 3},
        groups={"waiting": 2, "generating": 2, "scoring": 0, "ready": 0},
        counts={},
    )


def test_trained_groups_are_those_of_the_ledgers_commits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two steps of the real driver with workers that sleep: the counter that adds up the rows is
    the number of groups in the ledger's commits."""
    monkeypatch.chdir(SHAPES.parents[1])
    monkeypatch.delenv("REDIS_URL", raising=False)
    config = load_config(SHAPES, ["prompts_per_step=4", "rollout.group_size=4", "steps=2"])
    exporter, publisher = Exporter("shapes", 1, 2, 4), SleepingPublisher()
    exporter.begin([])
    stages_s = Seconds(rollout=0.01, reward=0.01, learn=0.0)
    with stand_in_stages(config, tmp_path / "run", stages_s) as stages:
        stages.serve(publisher.publish(None, 0), evaluate=False)
        for step in range(2):
            clock = Clock(exporter.stage)
            batch = stages.batch(step, clock)
            stages.trained(step)
            stages.serve(publisher.publish(None, step + 1), evaluate=False)
            exporter.step(step_row(step + 1, batch, {}, None) | clock.row())
        commits = read_run(tmp_path / "run").commits
    trained = sum(len(commit.attempts) for commit in commits)
    assert value(exporter, "groups_trained_total") == trained == 8
    assert value(exporter, "stage_seconds_count", stage="rollout") == 2
