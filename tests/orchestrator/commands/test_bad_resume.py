"""What keeps a run from going on: one line, exit code 2, and what the run has done stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from learner.step_checkpoint import Manifest, write_manifest
from orchestrator.cli import main
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.ledger_config import LedgerConfig
from orchestrator.settings.run_config import load_config
from orchestrator.settings.unchanged import save_settings
from tests.redis_server import redis_server

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "configs" / "shapes.yaml"
Resume = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that ended after its first step, as far as a resume looks into it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("REDIS_URL", raising=False)
    config = load_config(SHAPES, [f"root={tmp_path}", "name=run"])
    folder = RunFolder(config.folder)
    save_settings(config, folder.path)
    written = folder.checkpoints.begin(1)
    (written / "model").mkdir(parents=True)
    (written / "model" / "model.safetensors").write_bytes(bytes(1000))
    manifest = Manifest(weight_version=1, world_size=1, zero_stage=0, dtype="float32", reference="")
    write_manifest(written, manifest)
    folder.checkpoints.finish(1, written)
    folder.close()
    return folder.path


@pytest.fixture
def resume(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Resume:
    """The line that ``train --resume`` of the run ends with, without having started Ray."""
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))

    def resumed(*overrides: str, name: str = "run") -> str:
        before = content(run)
        command = ["train", str(run / "config.yaml"), f"name={name}", "--resume", *overrides]
        code = main(command)
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.count("\n") == 1, error
        assert content(run) == before
        return error.removeprefix("eg-grpo: ").strip()

    return resumed


def content(folder: Path) -> dict[Path, bytes]:
    """Every file below the folder but three: the lock, which names its last holder, the settings,
    which may have another address of Redis, and the log."""
    files = (file for file in folder.rglob("*") if file.is_file())
    others = (".lock", "config.yaml", "run.log")
    return {file: file.read_bytes() for file in files if file.name not in others}


def test_a_flipped_bit(run: Path, resume: Resume) -> None:
    """One bit of the checkpoint's weights: the file is named, and nothing in it is opened."""
    file = run / "checkpoints" / "step-1" / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    assert resume() == f"checkpoint file {file} is corrupt: its SHA-256 is not the manifest's"


def test_a_setting_that_changed(resume: Resume) -> None:
    """The line shows its old value and its new one."""
    assert resume("learner.max_grad_norm=3").startswith(
        "learner.max_grad_norm: the run was started with 1.0, now it is 3.0; resume it as it was,"
    )


def test_a_run_in_use(run: Path, resume: Resume) -> None:
    """By this process."""
    folder = RunFolder(run, resume=True)
    assert resume().startswith(f"run folder {run} is in use by process ")
    folder.close()


def test_a_redis_that_is_not_there(resume: Resume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says whether the setting or the variable names it."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert resume().startswith("REDIS_URL: no Redis answers there: ConnectionError")
    monkeypatch.delenv("REDIS_URL")
    nowhere = "ledger.url=redis://127.0.0.1:1"
    assert resume(nowhere).startswith("ledger.url: no Redis answers there: ConnectionError")


def test_a_wrong_password(tmp_path: Path, resume: Resume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the right one nor the wrong one is shown."""
    with redis_server(tmp_path, "hush-hush") as url:
        monkeypatch.setenv("REDIS_URL", url.replace("hush-hush", "a-guess"))
        line = resume()
    assert line == "REDIS_URL: Redis says that the password is missing or wrong"


def test_the_ledger_of_another_run(
    run: Path, tmp_path: Path, resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a run has the original's ledger. It may not take the original's groups."""
    with redis_server(tmp_path) as url:
        monkeypatch.setenv("REDIS_URL", url)
        with open_ledger(LedgerConfig(), run, print):
            pass
        shutil.copytree(run, tmp_path / "copy")
        assert resume(name="copy").startswith(
            f"{tmp_path}/copy/ledger.json: this is the ledger of another run, {run}, of which"
        )
