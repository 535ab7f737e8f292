"""The other places that get the rows of a run, each with the real package."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.sinks import RunOfSinks, Sinks, TensorBoard, Trackio, WandB, numbers
from orchestrator.settings import metrics_config
from orchestrator.settings.metrics_config import MetricsConfig, check_sinks
from policy.errors import RunFailed, UserError
from policy.types import JsonDict


def row(step: int) -> JsonDict:
    return {
        "step": step,
        "time": 1.5e9 + step,
        "reward/mean": step / 4,
        "loss": None,
        "alarms": ["a sentence"],
        "rewards/failure_reasons": {},
    }


def run_of(folder: Path, name: str = "shapes") -> RunOfSinks:
    return RunOfSinks(name, "eg-grpo-tests", folder, "0123456789abcdef", {"seed": 3})


def needs(package: str) -> None:
    """Skip the test where the package, or what it needs, is absent; fail in continuous integration,
    which must have it."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package}: {error}")


def test_only_numbers_of_a_row_can_be_drawn() -> None:
    """Null, texts, lists and mappings are left out. So are step and time, which are axes."""
    assert numbers(row(2)) == {"reward/mean": 0.5}


def test_tensorboard_has_every_step(tmp_path: Path) -> None:
    """Its own reader finds each value at its step."""
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(run_of(tmp_path))
    for step in (1, 2):
        sink.step(row(step))
    sink.close(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    found = [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors("reward/mean")]
    assert found == [(1, 0.25), (2, 0.5)]


def test_wandb_keeps_an_offline_run_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no account and no network: the run's file, which ``wandb sync`` sends, has the rows,
    the settings and that the run has failed. It does not have the command line, which may hold a
    secret."""
    needs("wandb")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["eg-grpo", "train", "ledger.url=redis://:unmasked@host"])
    sink = WandB(run_of(tmp_path), "offline")
    for step in (1, 2):
        sink.step(row(step))
    sink.close(failed=True)
    (file,) = tmp_path.glob("wandb/offline-run-*-0123456789abcdef/*.wandb")
    deadline = time.monotonic() + 60  # a process of W&B's writes it
    while exit_codes(file) != [1] and time.monotonic() < deadline:  # it is written last
        time.sleep(0.1)
    assert b"reward/mean" in file.read_bytes()
    assert b"seed" in file.read_bytes()
    assert exit_codes(file) == [1]
    kept = [found.read_bytes() for found in (tmp_path / "wandb").rglob("*") if found.is_file()]
    assert not any(b"unmasked" in content for content in kept)


def exit_codes(file: Path) -> list[int]:
    """The exit codes in a file of W&B, which has the format of LevelDB's logs: a header, and blocks
    of 32 KiB with records, of which a long one is cut into parts."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole, codes = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind, start = content[place + 6], place + 7
        if start + size > len(content):  # it is being written
            break
        whole, place = whole + content[start : start + size], start + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record.FromString(whole)
            codes += [record.exit.exit_code] if record.HasField("exit") else []
            whole = b""
    return codes


def test_trackio_has_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own reader finds each value at its step."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needs("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    sink = Trackio(run_of(tmp_path))
    for step in (1, 2):
        sink.step(row(step))
    sink.close(failed=False)
    logs = SQLiteStorage.get_logs("eg-grpo-tests", "shapes-01234567")
    assert [(log["step"], log["reward/mean"]) for log in logs] == [(1, 0.25), (2, 0.5)]


class Recording:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.failed: list[bool] = []

    def step(self, row: JsonDict) -> None:
        self.rows.append(row["step"])

    def close(self, failed: bool) -> None:
        self.failed.append(failed)


class Failing(Recording):
    """A sink whose server goes away after the first row."""

    def step(self, row: JsonDict) -> None:
        if self.rows:
            raise ConnectionError("the server\nis away")
        super().step(row)


def test_a_sink_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """There is one warning, and the run goes on. One that cannot begin ends it at the start."""
    failing = Failing()
    with caplog.at_level(logging.WARNING, logger="eg_grpo"), Sinks() as sinks:
        sinks.begin("wandb", lambda: failing)
        for step in (1, 2, 3):
            sinks.step(row(step))
    assert (failing.rows, failing.failed) == ([1], [])
    assert caplog.messages == ["metrics.wandb: the server is away; it gets no more rows"]

    def cannot() -> Any:
        raise ConnectionError("no account")

    with pytest.raises(UserError, match=r"^metrics\.wandb: no account$"):
        sinks.begin("wandb", cannot)


def test_a_sink_is_told_at_the_end_whether_the_run_has_failed() -> None:
    """An error of the run passes through the sinks, which are closed with it."""
    sink = Recording()

    def run(error: Exception | None) -> None:
        with Sinks() as sinks:
            sinks.begin("wandb", lambda: sink)
            if error is not None:
                raise error

    run(None)
    with pytest.raises(RunFailed, match="a rank died"):
        run(RunFailed("a rank died"))
    assert sink.failed == [False, True]


def test_an_absent_package_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the setting and the command that installs the package."""
    monkeypatch.setattr(metrics_config, "find_spec", lambda name: None)
    check_sinks(MetricsConfig())
    with pytest.raises(
        UserError, match=r"^metrics\.wandb: .* pip install .* '\.\[wandb\]' \(in the clone; .*\)$"
    ):
        check_sinks(MetricsConfig(wandb="offline"))
