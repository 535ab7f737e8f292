"""Serves the page of some runs to a browser on this machine, and keeps it up to date.

It reads the run folders and writes nothing. It listens on 127.0.0.1 alone. A page of another site
could still reach it under a name of its own that resolves to 127.0.0.1 (DNS rebinding), so a
request is refused whose Host header does not name this server.

Failure policy: a run folder that cannot be read, such as one that is damaged, answers with status
503 and the reason. The page then keeps what it shows and asks again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from orchestrator.report.embedding import embedded
from orchestrator.report.page import html, page_data
from orchestrator.report.run_files import read_runs
from policy.errors import UserError
from policy.types import JsonDict

HOST = "127.0.0.1"
_PLAIN, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_FILES = (
    *("config.yaml", "metrics.jsonl", "evaluations.jsonl", "dropped.jsonl", "skipped.jsonl"),
    *("samples/records.jsonl", "samples/training.jsonl"),
)


class Pages:
    """The data of the page, read again only when a file of a run has changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises ``UserError`` if one of the folders is not that of a run."""
        self._folders = folders
        self._lock = Lock()  # several tabs may ask at the same time, and the first one reads
        self._state: object = None
        self._data: JsonDict = {}
        self.data()

    def data(self) -> tuple[JsonDict, str]:
        """The data of the page, and a tag that differs from those of all other data."""
        with self._lock:
            state = self._written()
            if state != self._state:
                self._data = page_data(read_runs(self._folders, may_be_empty=True))
                self._state = state
            return self._data, f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}"'

    def _written(self) -> object:
        """Size and time of every file that the page is made of."""
        found = [
            (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None
            for folder in self._folders
            for name in _FILES
            for file in [folder / name]
        ]
        return tuple(found)


class PageServer(ThreadingHTTPServer):
    """A server that is bound to a port of this machine."""

    def __init__(self, folders: Sequence[Path], port: int) -> None:
        """With port 0 the system chooses one.

        Raises ``UserError`` if the port cannot be used, or if a folder is not that of a run.
        """
        pages = Pages(folders)
        try:
            super().__init__((HOST, port), partial(_Handler, pages))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--port {port}: cannot be listened on: {reason}") from None

    @property
    def address(self) -> str:
        """What a user types into a browser."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before it has its answer is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers ``/`` and ``/data.json``."""

    server_version, sys_version = "eg-grpo", ""
    timeout = 60  # seconds that a browser may leave a connection idle

    def __init__(self, pages: Pages, *connection: Any) -> None:
        self._pages = pages
        super().__init__(*connection)

    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(403, _PLAIN, "this server answers to 127.0.0.1 and localhost alone")
            return
        if self.path not in ("/", "/data.json"):
            self._answer(404, _PLAIN, "there is / and /data.json")
            return
        try:
            data, tag = self._pages.data()
        except (UserError, OSError) as error:
            self._answer(503, _PLAIN, str(error))
            return
        if self.path == "/":
            self._answer(200, _HTML, html(data, live=True))
        elif self.headers.get("If-None-Match") == tag:
            self._answer(304, _JSON, "", tag)
        else:
            self._answer(200, _JSON, embedded(data), tag)

    def _answer(self, status: int, kind: str, text: str, tag: str = "") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a page that asks every three seconds would fill the terminal."""
