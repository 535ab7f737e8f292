"""Downloads against a real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from evaluation.public_files import PublicFile
from orchestrator.commands.download import download
from policy.disk import NotWritten
from policy.errors import UserError

BODY = bytes(range(256)) * 800
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server:
    """Serves ``BODY``; each request is answered by the next of ``script``, the last one again."""

    def __init__(self) -> None:
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = [whole]
        self.requests = 0
        self.released = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.released = outer.released
                outer.script[min(outer.requests, len(outer.script)) - 1](self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def file(self, sha256: str = DIGEST) -> PublicFile:
        url = f"http://127.0.0.1:{self.http.server_port}/file"
        return PublicFile("sub/file.bin", url, len(BODY), sha256)


def whole(request: BaseHTTPRequestHandler, body: bytes = BODY, status: int = 200) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def longer(request: BaseHTTPRequestHandler) -> None:
    whole(request, BODY + b"and more")


def broken_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:1000])
    request.close_connection = True


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda request: whole(request, b"no", code)


def silent(request: BaseHTTPRequestHandler) -> None:
    request.released.wait()  # type: ignore[attr-defined]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("orchestrator.commands.download._PAUSE_S", 0.01)
    server = Server()
    yield server
    server.released.set()
    server.http.shutdown()
    server.http.server_close()


def test_a_file_arrives_once(server: Server, tmp_path: Path) -> None:
    """The bytes are the server's, nothing else is left, and the second call asks nobody."""
    assert download(server.file(), tmp_path) is True
    assert (tmp_path / "sub/file.bin").read_bytes() == BODY
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["file.bin"]
    assert download(server.file(), tmp_path) is False
    assert server.requests == 1


def test_the_third_try_may_succeed(server: Server, tmp_path: Path) -> None:
    """A server that is busy, then breaks off, then answers: the file is whole."""
    server.script = [status(503), broken_off, whole]
    assert download(server.file(), tmp_path) is True
    assert (tmp_path / "sub/file.bin").read_bytes() == BODY
    assert server.requests == 3


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (status(404), "HTTP status 404"),
        (status(500), "HTTP status 500"),
        (silent, "timed out"),
        (broken_off, f"after 1000 bytes, not {DIGEST} after {len(BODY)}"),
        (longer, f"after {len(BODY) + 1} bytes, not {DIGEST} after {len(BODY)}"),
    ],
)
def test_three_failed_tries_are_one_line_and_no_file(
    server: Server,
    tmp_path: Path,
    answer: Callable[[BaseHTTPRequestHandler], None],
    problem: str,
) -> None:
    """The line names the URL and the reason; the folder stays empty."""
    server.script = [answer]
    with pytest.raises(UserError) as caught:
        download(server.file(), tmp_path, silence_s=0.2 if answer is silent else 60)
    message = str(caught.value)
    assert message.startswith(f"{server.file().url}: ")
    assert problem in message
    assert message.endswith("(tried 3 times)")
    assert "\n" not in message
    deadline = time.monotonic() + 60  # the last request may be read after its sender has gone
    while server.requests < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.requests == 3
    assert list((tmp_path / "sub").iterdir()) == []


def test_bytes_of_another_digest_are_not_kept(server: Server, tmp_path: Path) -> None:
    """As many bytes as published, but other ones: the message has both digests."""
    with pytest.raises(UserError, match=f"SHA-256 is {DIGEST} after .* not {'0' * 64} after"):
        download(server.file(sha256="0" * 64), tmp_path)
    assert list((tmp_path / "sub").iterdir()) == []


def test_nobody_there(server: Server, tmp_path: Path) -> None:
    """A connection that is refused is named too."""
    file = PublicFile("file.bin", "http://127.0.0.1:9/file", len(BODY), DIGEST)
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9/file: .*Connection refused"):
        download(file, tmp_path)


def test_a_changed_file_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    """What stands under the name and is not the published file is the user's."""
    target = tmp_path / "sub/file.bin"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there but is not the published file"):
        download(server.file(), tmp_path)
    assert target.read_bytes() == b"mine"
    assert server.requests == 0


def test_an_unwritable_folder_is_named(server: Server, tmp_path: Path) -> None:
    """The folder lies below a file; the server is not asked."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match=r"sub/file\.bin cannot be written: Not a directory"):
        download(server.file(), tmp_path / "file")
    assert server.requests == 0
