"""Downloads against a real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from evaluation.public_files import PublicFile
from orchestrator.commands.download import download
from policy.errors import UserError

BODY = bytes(range(256)) * 800


class Server:
    """Serves ``BODY``; each request is answered by the next of ``script``, the last one again."""

    def __init__(self) -> None:
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = [whole]
        self.ranges: list[str | None] = []  # of the requests, in order
        self.released = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                self.released = outer.released
                answer = outer.script[min(len(outer.ranges), len(outer.script)) - 1]
                answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def file(self, **changes: object) -> PublicFile:
        sizes = {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
        url = f"http://127.0.0.1:{self.http.server_port}/file"
        return PublicFile(**{"path": "sub/file.bin", "url": url, **sizes, **changes})


def whole(request: BaseHTTPRequestHandler, body: bytes = BODY, status: int = 200) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def ranged(request: BaseHTTPRequestHandler) -> None:
    start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    request.send_header("Content-Length", str(len(BODY) - start))
    request.end_headers()
    request.wfile.write(BODY[start:])


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
def server() -> Iterator[Server]:
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
    assert len(server.ranges) == 1


def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    """The second request asks for the missing bytes only."""
    server.script = [broken_off, ranged]
    download(server.file(), tmp_path)
    assert server.ranges == [None, "bytes=1000-"]
    assert (tmp_path / "sub/file.bin").read_bytes() == BODY


def test_a_part_of_an_earlier_run_is_used(server: Server, tmp_path: Path) -> None:
    """Also across processes; and a server that ignores the range sends the whole file anew."""
    for answer in (ranged, whole):
        server.script, server.ranges = [answer], []
        part = tmp_path / "sub" / "file.bin.part"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(BODY[:5000])
        download(server.file(), tmp_path)
        assert server.ranges == ["bytes=5000-"]
        assert (tmp_path / "sub/file.bin").read_bytes() == BODY
        (tmp_path / "sub/file.bin").unlink()


@pytest.mark.parametrize("code", [429, 500, 503])
def test_transient_statuses_are_tried_again(server: Server, tmp_path: Path, code: int) -> None:
    """One refusal, then the file."""
    server.script = [status(code), whole]
    download(server.file(), tmp_path)
    assert len(server.ranges) == 2


def refused(file: PublicFile, folder: Path, **deadlines: float) -> str:
    with pytest.raises(UserError) as caught:
        download(file, folder, **deadlines)
    assert not (folder / "sub/file.bin").exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_file_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    """404 will not mend itself: one request, and the address in the message."""
    server.script = [status(404)]
    file = server.file()
    assert refused(file, tmp_path) == f"{file.url}: HTTP status 404"
    assert len(server.ranges) == 1


def test_other_bytes_are_never_kept(server: Server, tmp_path: Path) -> None:
    """A wrong digest and a file too long are errors; what came is thrown away."""
    assert "SHA-256 is" in refused(server.file(sha256="0" * 64), tmp_path)
    assert not (tmp_path / "sub/file.bin.part").exists()
    message = refused(server.file(size=len(BODY) - 1), tmp_path)
    assert f"more than the {len(BODY) - 1} bytes" in message
    assert (tmp_path / "sub/file.bin.part").stat().st_size == 0


def test_a_file_too_short_is_no_file(server: Server, tmp_path: Path) -> None:
    """The server's file ends early every time: the deadline ends it, and says how far it came."""
    message = refused(server.file(size=len(BODY) + 1), tmp_path, deadline_s=0.2)
    assert "not complete before the deadline" in message
    assert f"{len(BODY)} of {len(BODY) + 1} bytes are kept" in message


def test_a_silent_server_meets_the_deadline(server: Server, tmp_path: Path) -> None:
    """It accepts and says nothing: given up by us, for the server never closes the connection."""
    server.script = [silent]
    assert "timed out" in refused(server.file(), tmp_path, deadline_s=0.5, silence_s=0.2)


def test_nobody_there(tmp_path: Path, server: Server) -> None:
    """A refused connection is tried until the deadline."""
    file = server.file(url="http://127.0.0.1:9/file")
    assert "Connection refused" in refused(file, tmp_path, deadline_s=0.2)


def test_a_changed_file_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    """What stands under the name and is not the published file is the user's."""
    target = tmp_path / "sub/file.bin"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there but is not the published file"):
        download(server.file(), tmp_path)
    assert target.read_bytes() == b"mine"
    assert server.ranges == []


def test_an_unwritable_folder_is_named(server: Server, tmp_path: Path) -> None:
    """The folder lies below a file."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(server.file(), tmp_path / "file")
