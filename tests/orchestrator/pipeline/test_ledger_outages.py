"""What the ledger survives: a server that is killed, frozen or away, and data that are cut or
gone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger import Claim, Ledger, LedgerLost
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.settings.ledger_config import LedgerConfig
from policy.errors import RunFailed
from tests.redis_server import between, redis_server
from tests.small_disk import fill, small_disk


@pytest.fixture(autouse=True)
def _no_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ledger(tmp_path: Path, said: list[str]) -> Iterator[Ledger]:
    """On a server of its own, with step 0 committed."""
    with open_ledger(LedgerConfig(timeout_s=30), tmp_path, said.append) as opened:
        train_step(opened, 0)
        yield opened


def train_step(ledger: Ledger, step: int) -> None:
    ledger.admit(step, 2)
    claims = ledger.lease(step, [0, 1], "rollout-0", 60, draw=0)
    assert ledger.sampled(claims, step) == 2
    assert ledger.scored(claims) == 2
    ledger.commit(step, step + 1, claims)


def server_pid(folder: Path) -> int:
    return int((folder / "ledger" / "server.pid").read_text())


def kill_server(folder: Path) -> None:
    pid = server_pid(folder)
    os.kill(pid, signal.SIGKILL)
    while "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)


def test_kills_of_the_server_lose_nothing_that_was_acknowledged(
    ledger: Ledger, tmp_path: Path, said: list[str]
) -> None:
    """Six kills at random moments, and steps until the last one: each step is committed once, in
    order, and every write counts once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 6:
            time.sleep(moments.uniform(0, 0.3))
            with suppress(ValueError):  # a new server is writing the file
                pid = server_pid(tmp_path)
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    steps = 1  # the ledger comes with one
    while killer.is_alive():
        train_step(ledger, steps)
        ledger.count("steps")
        steps += 1
    view = ledger.view()
    assert len(killed) == 6
    assert said  # a server that is killed before it answers is started again without a line
    assert [commit.step for commit in view.commits] == list(range(steps))
    assert {(group.state, group.attempt) for group in view.groups} == {("trained", 1)}
    assert view.counts == {"steps": steps - 1}
    assert (view.epoch, view.committed) == (1, steps)


@pytest.mark.parametrize("bytes_lost", [1, 300, 2000])
def test_a_log_that_was_cut_short_is_noticed(
    ledger: Ledger, tmp_path: Path, said: list[str], bytes_lost: int
) -> None:
    """The server starts with what is left, and the next write says that acknowledged ones are
    gone; a ledger that was begun anew then goes on."""
    ledger.count("last")
    kill_server(tmp_path)
    (log,) = (tmp_path / "ledger").glob("appendonly*/*.incr.aof")
    os.truncate(log, log.stat().st_size - bytes_lost)
    with pytest.raises(LedgerLost, match="lacks writes that were acknowledged"):
        ledger.count("next")
    with pytest.raises(LedgerLost):
        ledger.check()
    ledger.rebuild(1)
    train_step(ledger, 1)
    view = ledger.view()
    assert (view.epoch, view.base, view.committed, view.checkpoint) == (2, 1, 2, 1)
    assert {(group.step, group.state, group.attempt) for group in view.groups} == {
        (1, "trained", 2)  # attempt 1 was handed out before the loss
    }
    assert sum("starting it again" in line for line in said) == 1


def test_data_that_are_gone_are_noticed(ledger: Ledger, tmp_path: Path) -> None:
    """An empty server is not taken for a new run; late claims of the old ledger stay refused."""
    late = Claim(0, 0, 1)
    kill_server(tmp_path)
    shutil.rmtree(tmp_path / "ledger" / "appendonlydir")
    with pytest.raises(LedgerLost, match=r"^the ledger of run \w{32} at unix://.* is gone"):
        ledger.admit(1, 2)
    with pytest.raises(LedgerLost):
        ledger.view()
    ledger.rebuild(0)
    ledger.admit(0, 1)
    assert ledger.lease(0, [0], "rollout-0", 60, draw=0) == [Claim(0, 0, 2)]
    assert ledger.sampled([late], 0) == 0


def test_unreadable_data_are_moved_aside(ledger: Ledger, tmp_path: Path, said: list[str]) -> None:
    """The server does not start with them; the ledger is lost, and they are kept."""
    kill_server(tmp_path)
    (log,) = (tmp_path / "ledger").glob("appendonly*/*.incr.aof")
    content = bytearray(log.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    log.write_bytes(content)
    with pytest.raises(LedgerLost):
        ledger.check()
    assert said[1].endswith(f"cannot be read and were moved to {tmp_path}/ledger/unreadable")
    assert list((tmp_path / "ledger" / "unreadable").rglob("*.incr.aof"))
    ledger.rebuild(1)
    train_step(ledger, 1)


def test_a_frozen_server_is_waited_for(ledger: Ledger, tmp_path: Path) -> None:
    """It answers when it wakes up, and the write has happened once."""
    pid = server_pid(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(1.5, os.kill, (pid, signal.SIGCONT)).start()
    ledger.count("once")
    assert ledger.view().counts == {"once": 1}


def test_a_redis_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """The user is told that it is away and that it is back; nothing is lost."""
    said: list[str] = []
    with redis_server(tmp_path) as url, between(url) as proxy:
        address = f"redis://{proxy.place}"

        def told(line: str) -> None:  # only then does it come back
            said.append(line)
            proxy.answers_to_lose = 0

        ledger = Ledger.take(address, "away", 0, told, timeout_s=30)
        ledger.admit(0, 1)
        proxy.answers_to_lose = 1_000_000
        assert ledger.lease(0, [0], "a", 60, draw=0) == [Claim(0, 0, 1)]
    away, back = said
    assert away.startswith(
        f"Redis ({address}) does not answer, waiting; the run goes on when it is back, and ends"
        " after 30 s (ledger.timeout_s): "
    )
    assert back.startswith(f"Redis ({address}) answers again after ")


def test_a_redis_that_stays_away_ends_the_run(tmp_path: Path) -> None:
    """After the time that the settings give; whoever asks again does not wait again: 100 waits
    would take more than three minutes."""
    with redis_server(tmp_path) as url:
        ledger = Ledger.take(url, "gone", 0, print, timeout_s=2)
    began = time.monotonic()
    message = r"^Redis \(unix://.*\) has not answered for 2 s \(ledger.timeout_s\): Error 2 "
    with pytest.raises(RunFailed, match=message):
        ledger.count("calls")
    for _ in range(100):
        with pytest.raises(RunFailed, match=message):
            ledger.check()
    assert time.monotonic() - began < 60


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """A server that cannot write ends and is started again until there is room; the write that
    failed then happens, and earlier ones are there."""
    said: list[str] = []
    filler = tmp_path / "none yet"

    def told(line: str) -> None:  # only then is there room again
        said.append(line)
        if "does not answer, waiting" in line:
            filler.unlink(missing_ok=True)

    with (
        small_disk(tmp_path / "disk", 2**20) as disk,
        open_ledger(LedgerConfig(timeout_s=60), disk, told) as ledger,
    ):
        train_step(ledger, 0)
        filler = fill(disk)
        ledger.note_error("x" * 2000)
        ledger.note_error("y" * 2000)
        ledger.note_error("z" * 2000)
        view = ledger.view()
    assert [error.text[0] for error in view.errors] == ["z", "y", "x"]
    assert view.committed == 1
    assert any("does not answer, waiting" in line for line in said)
