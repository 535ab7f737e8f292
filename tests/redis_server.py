"""A real Redis (or Valkey) for tests, and what may stand between it and its clients."""

from __future__ import annotations

import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from orchestrator.pipeline.ledger_server import server_binary


@contextmanager
def redis_server(folder: Path, password: str | None = None) -> Iterator[str]:
    """The URL of a server that keeps nothing and ends with the block."""
    binary, file = server_binary(), folder / "redis.sock"
    process = subprocess.Popen(
        [str(binary), "--port", "0", "--unixsocket", str(file), "--unixsocketperm", "700",
         "--save", "", "--appendonly", "no", "--dir", str(folder),
         *(("--requirepass", password) if password else ())],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"unix://:{password}@{file}" if password else f"unix://{file}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                redis.Redis.from_url(url).ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None, f"{binary} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{binary} did not answer"
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


class Between(socketserver.ThreadingTCPServer):
    """Listens on loopback and passes everything on to a server on a unix socket."""

    daemon_threads = True

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.server_file = url.removeprefix("unix://").rpartition("@")[2]
        self.tls = tls
        self.place = f"127.0.0.1:{self.server_address[1]}"
        self.answers_to_lose = 0  # that many answers of the server do not arrive from now on

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class _Passing(socketserver.BaseRequestHandler):
    server: Between

    def handle(self) -> None:
        near = self.request
        if self.server.tls is not None:
            near = self.server.tls.wrap_socket(near, server_side=True)
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(self.server.server_file)
            threading.Thread(target=self._answer, args=(far, near), daemon=True).start()
            with suppress(OSError):
                while data := near.recv(65536):
                    far.sendall(data)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                if self.server.answers_to_lose:
                    self.server.answers_to_lose -= 1
                    break
                near.sendall(data)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(url: str, tls: ssl.SSLContext | None = None) -> Iterator[Between]:
    """Stand between the server at ``url`` and clients of ``place``."""
    with Between(url, tls) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
