"""``eg-grpo status``: what it prints of literal ledgers, and of a run that ends under it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.ledger_view import (
    ErrorEntry,
    GroupEntry,
    LedgerView,
    ScalingEntry,
    WorkerEntry,
)
from orchestrator.pipeline.status import RunStatus, locked_by, read_status
from orchestrator.pipeline.status_text import as_json, as_text
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.ledger_config import LedgerConfig

VIEW = LedgerView(
    run="abc",
    epoch=2,
    taken=1_000.0,
    committed=1,
    checkpoint=1,
    base=0,
    groups=(
        GroupEntry(0, 0, "trained", 1, 0, "", 0.0, 0, ""),
        GroupEntry(1, 0, "ready", 1, 0, "", 0.0, 1, ""),
        GroupEntry(1, 1, "generating", 2, 0, "rollout worker 0", 2_600.0, -1, ""),
        GroupEntry(1, 2, "waiting", 1, 0, "", 0.0, -1, "rollout worker 1 died"),
    ),
    commits=(),
    workers=(
        WorkerEntry("learner rank 0", "learner", "saving", 1, 1_999.0),
        WorkerEntry("reward worker hps/0", "reward", "scoring", -1, 1_999.0),
        WorkerEntry("rollout worker 0", "rollout", "sampling", 1, 1_999.0),
        WorkerEntry("rollout worker 1 (process 2)", "rollout", "starting", -1, 1_999.0),
    ),
    errors=(ErrorEntry(1_990.0, 2, "rollout worker 1 died"),),
    counts={"late_refused": 0, "lost/rollout": 1},
    scaling=(
        ScalingEntry("1", "ada@host", {"rollout": 3}, 1_800.0, {"rollout": 1}, "done", 1_805.0),
        ScalingEntry("2", "ada@host", {"hps": 9}, 1_900.0, {"hps": 1}, "refused: no room", 1_901.0),
        ScalingEntry("3", "autoscaler", {"rollout": 4}, 1_999.0, {}, "", 0.0),
    ),
)
STATUS = RunStatus(
    folder=Path("runs/shapes"),
    steps=11,
    ledger=VIEW,
    now=2_000.0,
    driver=77,
    recent_s=6.5,
    checkpoint=Path("runs/shapes/checkpoints/step-1"),
)


def test_a_run_that_goes_on() -> None:
    """Every line of it: ten steps of 6.5 s are left, and one worker and two groups heal."""
    assert as_text(STATUS).splitlines() == [
        "run      runs/shapes (ledger abc, epoch 2)",
        "driver   runs as process 77 of this machine; last sign of life 1 s ago",
        "steps    1 of 11 committed; the last checkpoint is step-1",
        "time     6.5 s a step; ETA 1 min 05 s",
        "groups   step 2: 1 waiting, 1 generating, 1 ready",
        "workers  rollout worker 0: sampling, weights 1",
        "         rollout worker 1 (process 2): starting",
        "         reward worker hps/0: scoring",
        "         learner rank 0: saving, weights 1",
        "heals    rollout worker 1 (process 2): starting",
        "         step 2 place 1: generating again, attempt 2",
        "         step 2 place 2: waiting again, attempt 2; rollout worker 1 died",
        "scaling  1970-01-01 00:30:00 UTC  rollout 1 -> 3 (asked by ada@host): done after 5 s",
        "         1970-01-01 00:31:40 UTC  hps 1 -> 9 (asked by ada@host): refused: no room",
        "         1970-01-01 00:33:19 UTC  rollout ? -> 4 (asked by autoscaler): not answered yet",
        "counts   late_refused 0",
        "         lost/rollout 1",
        "errors   1970-01-01 00:33:10 UTC  epoch 2: rollout worker 1 died",
    ]


def test_every_group_is_listed_if_asked_for() -> None:
    """Trained ones too; without the prompt file their ids are unknown."""
    table = as_text(STATUS, {(1, 1): "p:7"}).partition("\n\n")[2].splitlines()
    assert [line.split() for line in table] == [
        "step place prompt state attempt draw version owner lease until reason".split(),
        "1 0 - trained 1 0 0 - - -".split(),
        "2 0 - ready 1 0 1 - - -".split(),
        "2 1 p:7 generating 2 0 - rollout worker 0 1970-01-01 00:43:20 UTC -".split(),
        "2 2 - waiting 1 0 - - - rollout worker 1 died".split(),
    ]


def test_a_run_on_another_machine_lives_as_long_as_it_is_heard_of() -> None:
    """No lock is seen from here. After 15 s of silence the run counts as dead: nothing heals, and
    no time is left."""
    away = replace(STATUS, driver=None)
    assert as_text(away).splitlines()[1] == "driver   runs; last sign of life 1 s ago"
    dead = replace(away, now=2_014.0)
    lines = as_text(dead).splitlines()
    assert lines[1] == "driver   does not run; last sign of life 15 s ago"
    assert lines[3] == "time     6.5 s a step"
    assert lines[5] == "workers  gone with the driver; what they did last:"
    assert "heals    none" in lines
    starting = replace(away, ledger=replace(VIEW, workers=(), taken=1_998.0))
    assert as_text(starting).splitlines()[1] == (
        "driver   runs; last sign of life 2 s ago; the workers start"
    )


def test_json_has_the_same() -> None:
    """As numbers, with steps counted as in metrics.jsonl."""
    found = json.loads(json.dumps(as_json(STATUS, {(1, 1): "p:7"})))
    assert (found["alive"], found["silent_s"], found["seconds_left"]) == (True, 1.0, 65.0)
    assert found["in_flight"] == {"2": {"ready": 1, "generating": 1, "waiting": 1}}
    assert found["groups"][2]["prompt_id"] == "p:7"
    assert [(group["step"], group["state"]) for group in found["groups"][:2]] == [
        (1, "trained"),
        (2, "ready"),
    ]
    assert found["workers"][0]["state"] == "saving"
    assert "groups" not in as_json(STATUS)


def test_a_folder_without_a_run_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 2."""
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"eg-grpo: {tmp_path} has no ledger: ledger.json is missing\n"


def test_a_run_is_seen_while_it_lives_and_after_it_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its own server, and then from the data that the server has left. A worker that is not in
    the last notes is gone."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    folder = RunFolder(tmp_path / "run")
    (folder.path / "config.yaml").write_text("steps: 3\n")
    with open_ledger(LedgerConfig(), folder.path, lambda text: None) as ledger:
        _one_step(ledger)
        for second in (4.0, 6.0):
            folder.append("metrics.jsonl", {"step": 1, "seconds/step": second})
        seen = read_status(folder.path, now=0.0)
        assert seen.driver is not None
        assert [worker.name for worker in seen.ledger.workers] == ["learner rank 0"]
        assert (seen.recent_s, seen.left_s) == (5.0, 10.0)
    folder.close()
    assert locked_by(folder.path / ".lock") is None
    assert main(["status", str(folder.path)]) == 0
    printed = capsys.readouterr().out
    assert "steps    1 of 3 committed; no checkpoint yet" in printed
    assert "the disk is full" in printed


def _one_step(ledger: Ledger) -> None:
    ledger.admit(0, 1)
    claims = ledger.lease(0, [0], "rollout worker 0", 60, 0)
    ledger.sampled(claims, 0)
    ledger.scored(claims)
    ledger.commit(0, 1, claims)
    ledger.note_workers([WorkerEntry("rollout worker 0", "rollout", "idle", 0)])
    ledger.note_workers([WorkerEntry("learner rank 0", "learner", "saving", 1)])
    ledger.note_error("the disk is full")
