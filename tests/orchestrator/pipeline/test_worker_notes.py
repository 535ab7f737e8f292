"""The notes about workers that the driver writes into the ledger."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.worker_notes import WorkerNotes
from orchestrator.settings.ledger_config import LedgerConfig


def test_all_workers_are_noted_once_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what each one does and serves; a worker that was replaced is in the notes no more."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    schedule = Schedule(Layout(1, 1), 1, first_step=3, last_step=9)
    schedule.publish(3)
    schedule.worker_up("rollout worker 0")
    schedule.take_orders()
    schedule.worker_loaded("rollout worker 0", 3)
    # The two pools have nothing here but the property that is read.
    rollout: Any = SimpleNamespace(states={"rollout worker 0": "sampling"})
    rewards: Any = SimpleNamespace(states={"reward worker hps/0": "idle"})
    times = iter([10.0, 10.9, 11.0])
    with open_ledger(LedgerConfig(), tmp_path, lambda text: None) as ledger:
        notes = WorkerNotes(schedule, rollout, rewards, ledger, 1, lambda: next(times))

        def noted() -> list[tuple[str, str, int]]:
            notes.note()
            return [(w.name, w.state, w.weight_version) for w in ledger.view().workers]

        saving = Background(lambda: None, "saving")
        saving.wait(60)
        notes.watch(saving)  # it is over before anybody looks
        first = [
            ("learner rank 0", "idle", 3),
            ("reward worker hps/0", "idle", -1),
            ("rollout worker 0", "sampling", 3),
        ]
        assert noted() == first
        rollout.states = {"rollout worker 0 (process 2)": "starting"}
        assert noted() == first  # 0.9 s later
        assert noted()[2] == ("rollout worker 0 (process 2)", "starting", -1)


def test_a_call_that_is_over_is_let_go_when_the_next_is_watched() -> None:
    """With the groups that an update was called with, also if no notes are written in between."""
    nobody: Any = None
    notes = WorkerNotes(nobody, nobody, nobody, nobody, 1)
    groups = {"a group"}
    held = weakref.ref(groups)
    update = Background(partial(len, groups), "learning")
    notes.watch(update)
    update.wait(60)
    del groups, update
    assert held() is not None
    notes.watch(Background(lambda: None, "publishing"))
    assert held() is None
