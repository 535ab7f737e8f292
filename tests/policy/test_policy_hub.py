"""Checkpoints by Hub id: from the cache without a question, else from the Hub, else one line."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download, snapshot_download

from benchmarks.small_models.random_janus import save_tiny_checkpoint, tiny_policy
from policy.checkpoint.hub import checkpoint_file, checkpoint_folder, config_folder, hub_revision
from policy.checkpoint.loading import load_encoder, load_policy
from policy.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/Janus-tiny"


class Hub(ThreadingHTTPServer):
    """The three answers of the Hub that a download needs, from a folder, on loopback."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.asked: list[str] = []
        self.sent: list[str] = []


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.split("?")[0]
        if path in (f"/api/models/{REPOSITORY}/revision/{name}" for name in ("main", "v2")):
            self._json(200, {"id": REPOSITORY, "sha": COMMIT, "siblings": []})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            files = sorted(self.server.folder.iterdir())
            self._json(200, [_entry(file) for file in files])
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._file(self.server.folder / path.rsplit("/", 1)[1])
        elif path.startswith(f"/api/models/{REPOSITORY}/"):
            self._json(404, {"error": "no such revision"}, "RevisionNotFound")
        else:
            self._json(404, {"error": "no such repository"}, "RepoNotFound")

    do_HEAD = do_GET

    def _file(self, file: Path) -> None:
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{_digest(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.server.sent.append(file.name)
            self.wfile.write(data)

    def _json(self, status: int, answer: object, problem: str = "") -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if problem:
            self.send_header("X-Error-Code", problem)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(file: Path) -> dict[str, object]:
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": _digest(file),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds the tiny checkpoint, and an empty cache."""
    source = save_tiny_checkpoint(tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"the same weights once more")
    (source / "README.md").write_text("what it is")
    with Hub(source) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_checkpoint_is_downloaded_once_and_without_the_rest(hub: Hub) -> None:
    """Weights in one format only; the second load asks nothing of the network."""
    policy = load_policy(REPOSITORY)
    assert torch.equal(policy.model.lm_head.weight, tiny_policy().model.lm_head.weight)
    assert "model.safetensors" in hub.sent
    assert not {"pytorch_model.bin", "README.md"} & set(hub.sent)
    hub.asked.clear()
    assert load_encoder(REPOSITORY, "shapes").special.begin_of_image == 4
    assert checkpoint_folder(REPOSITORY).name == COMMIT
    assert not hub.asked


def test_a_repository_of_the_older_format_is_taken_as_it_is(hub: Hub) -> None:
    """No safetensors there: the *.bin is fetched."""
    (hub.folder / "model.safetensors").unlink()
    folder = checkpoint_folder(f"{REPOSITORY}@v2")
    assert (folder / "pytorch_model.bin").read_bytes() == b"the same weights once more"


def test_a_partly_cached_repository_is_completed(hub: Hub) -> None:
    """Another program has cached the configuration alone."""
    hf_hub_download(REPOSITORY, "config.json")
    assert (checkpoint_folder(REPOSITORY) / "model.safetensors").is_file()


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_never_cached_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, listed: bool
) -> None:
    """All others are no whole checkpoint, whether or not the client has noted what there is.
    Without a network the line names the file.
    """
    if listed:
        snapshot_download(REPOSITORY, ignore_patterns=[name, "*.bin"])
    else:
        for other in {*FILES} - {name}:
            hf_hub_download(REPOSITORY, other)
    missing = "complete weights" if name == "model.safetensors" else name
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=f"{REPOSITORY} has no {missing}: not in the Hub's ca"):
            checkpoint_folder(REPOSITORY)
    hub.sent.clear()
    assert load_encoder(REPOSITORY, "shapes").special.bos == 1
    assert name in hub.sent
    assert not set(FILES) & set(hub.sent) - {name}


def test_what_is_not_needed_may_be_missing_without_a_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fetched where there is one."""
    snapshot_download(REPOSITORY, ignore_patterns=["generation_config.json", "*.bin"])
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        load_policy(REPOSITORY)
    hub.sent.clear()
    assert (checkpoint_folder(REPOSITORY) / "generation_config.json").is_file()
    assert hub.sent == ["generation_config.json"]


def test_a_folder_of_the_cache_names_what_it_is(hub: Hub, tmp_path: Path) -> None:
    """Repository and commit, whatever revision was asked for; no other folder does."""
    assert hub_revision(checkpoint_folder(f"{REPOSITORY}@v2")) == (REPOSITORY, COMMIT)
    for folder in (hub.folder, tmp_path / "snapshots" / "models--a--b", Path("a"), Path("/")):
        assert hub_revision(folder) is None


def test_what_is_not_there_is_one_clear_line(hub: Hub) -> None:
    """No such revision, no such repository."""
    with pytest.raises(UserError, match=r"Janus-tiny has no revision v9$"):
        checkpoint_folder(f"{REPOSITORY}@v9")
    with pytest.raises(UserError, match=r"nobody/nothing: neither a folder nor a repository"):
        checkpoint_folder("nobody/nothing")


@pytest.mark.parametrize("way", ["switched off", "unreachable"])
def test_without_a_network_the_cache_serves(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What is cached loads; what is not is refused in one line."""
    checkpoint_folder(REPOSITORY)
    if way == "switched off":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    load_policy(REPOSITORY)
    with pytest.raises(UserError) as caught:
        load_policy("someone/else")
    assert "someone/else does not exist" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_wins_and_a_path_is_never_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name is taken; what is no owner/name stays a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / REPOSITORY).mkdir(parents=True)
    for name in (REPOSITORY, "no/such/folder", "/no/such", "./no/such", "checkpoint", Path("a/b")):
        assert checkpoint_folder(name) == Path(name)
    assert not hub.asked


def test_planning_fetches_the_configuration_alone(hub: Hub) -> None:
    """One file; and the checkpoint is still downloaded whole when it is asked for."""
    folder = config_folder(REPOSITORY)
    assert hub.sent == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "janus"
    assert (checkpoint_folder(REPOSITORY) / "model.safetensors").is_file()


def test_a_configuration_that_cannot_be_had_is_one_line(hub: Hub) -> None:
    """No such repository; the line names it."""
    with pytest.raises(UserError, match="someone/else: neither a folder nor a repository") as e:
        config_folder("someone/else")
    assert "\n" not in str(e.value)


def test_one_file_of_a_repository(hub: Hub) -> None:
    """It is downloaded alone, and only once; one that is not there is one line."""
    file = checkpoint_file(REPOSITORY, "config.json")
    assert json.loads(file.read_text())["model_type"] == "janus"
    assert hub.sent == ["config.json"]
    assert checkpoint_file(REPOSITORY, "config.json") == file
    assert hub.sent == ["config.json"]
    with pytest.raises(UserError, match=f"checkpoint {REPOSITORY}"):
        checkpoint_file(REPOSITORY, "HPS_v2.1_compressed.pt")
