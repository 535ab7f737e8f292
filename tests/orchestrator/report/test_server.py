"""The server answers to this machine alone, and reads a run again when it has new rows."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.report.embedding import embedded
from orchestrator.report.page import page_data
from orchestrator.report.run_files import read_runs
from orchestrator.report.server import PageServer
from policy.errors import UserError
from tests.written_runs import evaluation_row, write_run

ROOT = Path(__file__).parents[3]


@contextmanager
def served(*folders: Path) -> Iterator[int]:
    """The port of a server of these run folders."""
    with PageServer(folders, port=0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


def get(port: int, path: str, **headers: str) -> tuple[int, str, str]:
    """Status, body and ETag of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=sent)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.getheader("ETag") or ""
    connection.close()
    return found


def test_data_are_sent_again_only_when_they_are_new(tmp_path: Path) -> None:
    """The tag of an answer brings 304, until a row is added."""
    folder = write_run(tmp_path / "run", 2, {"seen": (0,)})
    with served(folder) as port:
        status, body, tag = get(port, "/data.json")
        assert (status, body) == (200, embedded(page_data(read_runs([folder]))))
        assert get(port, "/data.json", If_None_Match=tag) == (304, "", tag)
        with (folder / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(evaluation_row(2, "seen")) + "\n")
        status, body, again = get(port, "/data.json", If_None_Match=tag)
        assert (status, again != tag) == (200, True)
        assert json.loads(body)["runs"][0]["cards"][0]["after_step"] == 2
        assert "connect-src 'self'" in get(port, "/")[1]
        assert get(port, "/../etc/passwd")[0] == 404


def test_a_request_under_another_name_is_refused(tmp_path: Path) -> None:
    """A page of another site reaches the server only under a name of its own (DNS rebinding)."""
    with served(write_run(tmp_path / "run", 1, {})) as port:
        for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port + 1}", ""):
            for path in ("/", "/data.json"):
                assert get(port, path, Host=host)[0] == 403
        assert get(port, "/", Host=f"localhost:{port}")[0] == 200


def test_a_run_that_begins_is_shown_and_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    """A run has its settings before its first row. A port that is taken is named."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: young\nsteps: 80\n")
    with served(tmp_path / "run") as port:
        (run,) = json.loads(get(port, "/data.json")[1])["runs"]
        assert (run["name"], run["step"], run["planned"]) == ("young", 0, 80)
    with pytest.raises(UserError, match="holds no run"):
        PageServer([tmp_path], port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be listened on: Address"):
            PageServer([tmp_path / "run"], port)
    with pytest.raises(UserError, match="--port 99999: cannot be listened on"):
        PageServer([tmp_path / "run"], 99999)


def test_a_damaged_file_is_said_and_the_server_goes_on(tmp_path: Path) -> None:
    """Status 503 with the file and the line; after it is mended the page is there again."""
    folder = write_run(tmp_path / "run", 1, {})
    good = (folder / "metrics.jsonl").read_text()
    with served(folder) as port:
        (folder / "metrics.jsonl").write_text("{broken}\n")
        status, body, _ = get(port, "/data.json")
        assert status == 503
        assert "metrics.jsonl:1" in body
        (folder / "metrics.jsonl").write_text(good)
        assert get(port, "/data.json")[0] == 200


def test_the_commands_write_and_serve_pages(tmp_path: Path) -> None:
    """``report`` and ``compare`` name what they wrote; ``serve`` prints its address and ends well
    by Ctrl-C."""
    runs = [write_run(tmp_path / name, 20, {"seen": (0, 20)}) for name in "ab"]
    command = [sys.executable, "-m", "orchestrator"]
    out = tmp_path / "both.html"
    for arguments, said in (
        (["report", runs[0]], f"samples\nreport: {runs[0] / 'report.html'}\n"),
        (["compare", *runs, "--output", out], f"report: {out}\n"),
    ):
        done = subprocess.run(
            [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith(said)
    assert out.is_file()
    one = subprocess.run([*command, "compare", runs[0]], cwd=ROOT, capture_output=True, text=True)
    assert (one.returncode, one.stderr.count("\n")) == (2, 1)
    assert "compare needs two run folders or more" in one.stderr
    with subprocess.Popen(
        [*command, "serve", *map(str, runs), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stdout is not None
        address = serving.stdout.readline().split()[0]
        port = int(address.removesuffix("/").rpartition(":")[2])
        assert address == f"http://127.0.0.1:{port}/"
        assert len(json.loads(get(port, "/data.json")[1])["runs"]) == 2
        serving.send_signal(signal.SIGINT)
        assert serving.wait(60) == 0
