"""The ledger of a run folder: which Redis has it, what the folder keeps, and who may read it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.pipeline.ledger import Ledger, LedgerLost, Superseded
from orchestrator.pipeline.ledger_folder import (
    go_on_from,
    open_ledger,
    read_ledger_folder,
    read_run,
)
from orchestrator.settings.ledger_config import LedgerConfig
from policy import secrets
from policy.errors import RunFailed, UserError
from tests.redis_server import between, redis_server

CONFIG = LedgerConfig(timeout_s=20)
PASSWORD = "hush-hush"


@pytest.fixture(autouse=True)
def _no_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def kept(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "ledger.json").read_text())
    return content


def test_data_that_are_lost_between_two_drivers_are_begun_anew(run: Path) -> None:
    """The data were deleted after two steps. The next driver goes on from the checkpoint of the
    second step, says so, and can commit the third step."""
    with open_ledger(CONFIG, run, print) as first:
        for step in (0, 1):
            commit_step(first, step)
    shutil.rmtree(run / "ledger")
    said: list[str] = []
    with open_ledger(CONFIG, run, print) as second:
        go_on_from(second, 2, said.append)
        assert "begun anew at step 2" in said[0]
        commit_step(second, 2)
        assert second.committed == 3


def commit_step(ledger: Ledger, step: int) -> None:
    """Commit a step of one group."""
    ledger.admit(step, 1)
    claims = ledger.lease(step, [0], "a", 60, draw=0)
    ledger.sampled(claims, step)
    ledger.scored(claims)
    ledger.commit(step, step + 1, claims)


def test_a_run_is_known_again(run: Path) -> None:
    """The second driver has the same run and the next epoch, and finds what the first one did."""
    with open_ledger(CONFIG, run, print) as first:
        first.admit(0, 1)
        assert kept(run) == {
            "run": first.run,
            "epoch": 1,
            "taken": 1,
            "address": kept(run)["address"],
            "own": True,
            "folder": str(run),
        }
    with open_ledger(CONFIG, run, print) as second:
        assert (second.run, second.epoch) == (first.run, 2)
        assert second.lease(0, [0], "a", 60, draw=0)[0].attempt == 1
        assert kept(run)["epoch"] == 2


def test_a_live_run_and_a_dead_one_are_read_the_same(run: Path) -> None:
    """From its server, from a copy of its data while it lives, and after its server was killed."""
    with open_ledger(CONFIG, run, print) as ledger:
        ledger.admit(0, 3)
        ledger.lease(0, [1], "a", 60, draw=0)
        view = ledger.view()
        assert read_run(run) == read_ledger_folder(run) == view
        ledger.check()
        os.kill(int((run / "ledger" / "server.pid").read_text()), signal.SIGKILL)
        assert read_run(run) == view
    before = sorted(run.rglob("*"))
    assert read_run(run) == read_ledger_folder(run) == view
    assert sorted(run.rglob("*")) == before


def test_without_a_ledger_there_is_nothing_to_read(run: Path) -> None:
    """One line names the folder."""
    for read in (read_run, read_ledger_folder):
        with pytest.raises(UserError, match=f"^{run} has no ledger"):
            read(run)
    (run / "ledger.json").write_text('{"run": 3}')
    with pytest.raises(UserError, match=rf"^{run}/ledger.json: damaged: run: "):
        read_run(run)


def test_epochs_rise_though_redis_forgets(run: Path, tmp_path: Path) -> None:
    """The folder remembers the last one: an old driver stays fenced after all data are lost."""
    with open_ledger(CONFIG, run, print) as first:
        first.admit(0, 1)
    shutil.rmtree(run / "ledger")
    with open_ledger(CONFIG, run, print) as second:
        assert (second.epoch, second.view().groups) == (2, ())
        with pytest.raises(LedgerLost, match="has 0 committed steps, but the checkpoint has 4"):
            second.fall_back(4)
        second.rebuild(4)
        assert (second.epoch, second.committed, kept(run)["taken"]) == (3, 4, 3)


def test_a_driver_that_lost_its_ledger_cannot_take_the_run_back(run: Path) -> None:
    """A newer driver has been here, though the Redis that knew of it is gone."""
    with open_ledger(CONFIG, run, print) as old:
        (run / "ledger.json").write_text(json.dumps({**kept(run), "epoch": 2, "taken": 2}))
        with pytest.raises(Superseded, match=r"^driver epoch 2 took over .* \(epoch 1\) may write"):
            old.rebuild(0)


def test_the_settings_then_the_variable_then_a_server_of_our_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which Redis a run uses."""
    with redis_server(tmp_path) as url:
        monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/none")
        with open_ledger(LedgerConfig(url=url), run, print):
            assert (kept(run)["address"], kept(run)["own"]) == (url, False)
        monkeypatch.setenv("REDIS_URL", url)
        with open_ledger(CONFIG, run, print) as ledger:
            assert (kept(run)["address"], ledger.epoch) == (url, 2)
            assert read_run(run).epoch == 2
    assert not (run / "ledger").exists()
    with pytest.raises(UserError, match=r"^Redis \(unix://.*\): Error 2 connecting"):
        read_run(run)


def test_a_password_is_nowhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in files, lines, errors or the settings; other processes read with their own URL."""
    said: list[str] = []
    errors: list[Exception] = []
    short = LedgerConfig(timeout_s=5)
    with redis_server(tmp_path, PASSWORD) as url, between(url) as proxy:
        for login in (
            f"redis://:{PASSWORD}@{proxy.place}",
            f"redis://{proxy.place}?password={PASSWORD}",
        ):
            monkeypatch.setenv("REDIS_URL", login)
            with open_ledger(short, run, said.append) as ledger:
                ledger.note_error(f"cannot reach {login}")
                assert read_run(run) == ledger.view()
                proxy.answers_to_lose = 1_000_000
                with pytest.raises(RunFailed) as failed:
                    ledger.count("calls")
                proxy.answers_to_lose = 0
                errors.append(failed.value)
            monkeypatch.delenv("REDIS_URL")
            with pytest.raises(UserError) as refused:
                read_run(run)
            errors.append(refused.value)
            assert PASSWORD not in (run / "ledger.json").read_text()
        monkeypatch.setenv("REDIS_URL", login)
        assert "***" in read_run(run).errors[0].text
        assert PASSWORD not in repr(read_run(run))
        with pytest.raises(ValueError, match="in REDIS_URL, which is written nowhere"):
            LedgerConfig(url=login)
    assert len(said) == 2
    assert PASSWORD not in "".join([*said, *map(str, errors), *capfd.readouterr()])


def test_a_hidden_value_in_the_path_of_the_server_is_no_harm(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward may have the folder of temporary files in its env_vars, whose values are hidden."""
    with open_ledger(CONFIG, run, print) as ledger:
        place = str(kept(run)["address"])
        assert place.startswith("unix://")
    monkeypatch.setattr(secrets, "_known", {place.split("/")[3]})
    with open_ledger(CONFIG, run, print) as ledger:
        assert read_run(run) == ledger.view()


def test_a_redis_that_cannot_be_used_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not there, no login, a wrong login, no TLS: the line names the setting or the variable."""
    with redis_server(tmp_path, PASSWORD) as url, between(url) as proxy:
        for address, problem in {
            "redis://127.0.0.1:1": "no Redis answers there: ConnectionError",
            f"redis://{proxy.place}": "Redis says that the password is missing or wrong",
            f"redis://:false@{proxy.place}": "Redis says that the password is missing or wrong",
            f"rediss://{proxy.place}": "no Redis answers there: .* over TLS: .*",
            "localhost:6379": "no Redis answers there: ValueError",
        }.items():
            monkeypatch.setenv("REDIS_URL", address)
            with (
                pytest.raises(UserError, match=f"^REDIS_URL: {problem}$"),
                open_ledger(CONFIG, run, print),
            ):
                pass
        with (
            pytest.raises(UserError, match=r"^ledger.url: no Redis answers there"),
            open_ledger(LedgerConfig(url="redis://127.0.0.1:1"), run, print),
        ):
            pass
    assert list(run.iterdir()) == []


def test_tls(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rediss:// works with a certificate that is trusted, and no other is accepted."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with redis_server(tmp_path, PASSWORD) as url, between(url, tls) as proxy:
        address = f"rediss://:{PASSWORD}@{proxy.place}"
        monkeypatch.setenv("REDIS_URL", address)
        with (
            pytest.raises(UserError, match=r"^REDIS_URL: .* over TLS: .*certificate verify failed"),
            open_ledger(CONFIG, run, print),
        ):
            pass
        monkeypatch.setenv("REDIS_URL", f"{address}?ssl_ca_certs={certificate}")
        with open_ledger(CONFIG, run, print) as ledger:
            ledger.admit(0, 1)
            assert read_run(run) == ledger.view()


def test_a_copy_of_a_run_does_not_share_its_ledger(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one Redis the copy would take the original's groups; a folder that moved may go on."""
    with redis_server(tmp_path) as url:
        monkeypatch.setenv("REDIS_URL", url)
        with open_ledger(CONFIG, run, print):
            pass
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        message = f"^{copy}/ledger.json: this is the ledger of another run, {run}, of which"
        with pytest.raises(UserError, match=message), open_ledger(CONFIG, copy, print):
            pass
        shutil.rmtree(run)
        with open_ledger(CONFIG, copy, print) as moved:
            assert moved.epoch == 2


def test_data_of_another_run_are_refused(run: Path) -> None:
    """The folder's own data have another run than its ledger.json, or that file is gone."""
    with open_ledger(CONFIG, run, print) as first:
        pass

    def renamed() -> None:
        (run / "ledger.json").write_text(json.dumps({**kept(run), "run": "another"}))

    spoil: tuple[Callable[[], None], ...] = (renamed, (run / "ledger.json").unlink)
    for change in spoil:
        change()
        message = f"^{run}/ledger has the ledger of another run, {first.run}, and ledger.json"
        with pytest.raises(UserError, match=message), open_ledger(CONFIG, run, print):
            pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "localhost:6379"}, "must begin with redis://, rediss:// or unix://"),
        ({"url": "redis://:secret@localhost/0"}, "give a URL with a password in REDIS_URL"),
        ({"url": "unix:///s?password=secret"}, "give a URL with a password in REDIS_URL"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_stand_in_a_file(wrong: dict[str, object], message: str) -> None:
    """A URL that is none, one with a password, and a run that could not wait at all."""
    with pytest.raises(ValueError, match=message):
        LedgerConfig.model_validate(wrong)
