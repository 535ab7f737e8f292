"""Stand-ins for the commands of Slurm that a batch script uses.

``srun`` runs a command on one host of a ``tests.multihost.hosts`` network, as Slurm's daemons
would: with the environment and folder of the caller. It passes SIGTERM on, and ends with the
command.
``scontrol`` knows the names of the hosts and notes which jobs are to go back to the queue.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.multihost.hosts import Host

_SRUN = """#!{python}
import json, os, signal, socket, sys
options = [word for word in sys.argv[1:] if word.startswith("--")]
place = next(i for i, word in enumerate(sys.argv[1:], 1) if not word.startswith("--"))
host = next(word for word in options if word.startswith("--nodelist=")).partition("=")[2]
daemon = socket.socket(socket.AF_UNIX)
daemon.connect({daemon!r})
asked = dict(host=host, command=sys.argv[place:], environment=dict(os.environ), folder=os.getcwd())
daemon.sendall(json.dumps(asked).encode() + b"\\n")
signal.signal(signal.SIGTERM, lambda *_: daemon.sendall(b"TERM\\n"))
sys.exit(int(daemon.makefile().readline() or 1))
"""
_SCONTROL = """#!/bin/sh
case "$1 $2" in
    "show hostnames") echo "$3" | tr , '\\n' ;;
    "requeue "*) echo "$2" >> {requeued} ;;
    *) exit 1 ;;
esac
"""


@contextmanager
def slurm(folder: Path, hosts: Sequence[Host]) -> Iterator[Path]:
    """The folder with ``srun`` and ``scontrol``; jobs to run again are in ``folder/requeued``."""
    daemon = folder / "slurmd"
    programs = installed(folder, srun=_SRUN.format(python=sys.executable, daemon=str(daemon)))
    with _Daemon(str(daemon), _Step) as server:
        server.hosts = {host.name: host for host in hosts}
        server.log = folder / "steps.log"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield programs
        finally:
            server.shutdown()


def installed(folder: Path, **texts: str) -> Path:
    """``folder/bin`` with ``scontrol`` and programs of these texts."""
    programs = folder / "bin"
    programs.mkdir()
    texts["scontrol"] = _SCONTROL.format(requeued=shlex.quote(str(folder / "requeued")))
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return programs


def first_child(process: subprocess.Popen[str]) -> int:
    """The process on the host that ``Host.command`` has started."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


class _Daemon(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    hosts: dict[str, Host]
    log: Path


class _Step(socketserver.StreamRequestHandler):
    server: _Daemon

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        with self.server.log.open("a") as log:
            process = subprocess.Popen(
                self.server.hosts[asked["host"]].command(
                    "env", "-C", asked["folder"], *asked["command"]
                ),
                env=asked["environment"], stdout=log, stderr=log, text=True,
            )  # fmt: skip
        threading.Thread(target=self._pass_signals_on, args=(process,), daemon=True).start()
        code = process.wait()
        with suppress(OSError):  # the caller may have been killed
            self.wfile.write(f"{code}\n".encode())

    def _pass_signals_on(self, process: subprocess.Popen[str]) -> None:
        while self.rfile.readline():
            with suppress(ProcessLookupError, IndexError):
                os.kill(first_child(process), signal.SIGTERM)
        with suppress(OSError, IndexError):  # the caller has gone
            os.kill(first_child(process), signal.SIGKILL)
