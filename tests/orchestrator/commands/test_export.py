"""``eg-grpo export``: identical tensors for transformers alone, or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.small_models.random_janus import save_tiny_checkpoint, tiny_encoder, tiny_policy
from learner.step_checkpoint import Manifest, write_manifest
from orchestrator.cli import main
from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults, save_defaults
from policy.checkpoint.loading import load_encoder, load_policy
from policy.digest import sha256
from policy.sampling import PAPER_SAMPLING

MANIFEST = Manifest(
    weight_version=4, world_size=1, zero_stage=0, dtype="float32", reference="of the run"
)


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A sealed ``step-4`` folder, as the learner leaves it."""
    folder = tmp_path / "checkpoints" / "step-4"
    save_tiny_checkpoint(folder / "model", seed=3)
    save_defaults(folder / "model", GenerationDefaults.of("shapes", None, PAPER_SAMPLING))
    (folder / "state").mkdir()
    (folder / "state" / "optimizer.pt").write_bytes(b"of no use to others")
    write_manifest(folder, MANIFEST)
    (folder / "model" / "notes.txt").write_text("not in the manifest")
    return folder


@pytest.mark.slow
def test_another_program_loads_identical_tensors(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that imports nothing of this project loads OUT; each tensor is the step's."""
    out, dump = tmp_path / "new" / "out", tmp_path / "state.pt"
    assert main(["export", str(step), str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    script = (
        "import sys, torch; from transformers import JanusForConditionalGeneration as Janus;"
        "model = Janus.from_pretrained(sys.argv[1], local_files_only=True);"
        "torch.save(model.state_dict(), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, out, dump], cwd=tmp_path, check=True)
    exported = torch.load(dump, weights_only=True)
    expected = tiny_policy(seed=3).model.state_dict()
    assert exported.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(exported[key], tensor), key


def test_the_folder_is_whole_and_holds_only_the_model(step: Path, tmp_path: Path) -> None:
    """It is a checkpoint for this project too, how to sample included, and nothing is left over."""
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there
    assert main(["export", str(step), str(out)]) == 0
    assert torch.equal(load_policy(out).model.lm_head.weight, tiny_policy(3).model.lm_head.weight)
    assert load_encoder(out, "shapes").special == tiny_encoder().special
    assert load_defaults(out).template == "shapes"
    assert not [file for file in out.iterdir() if file.name in ("notes.txt", "optimizer.pt")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoints", "out"]


def test_the_adapter_of_a_lora_run_is_copied_alone(step: Path, tmp_path: Path) -> None:
    """``--adapter`` takes adapter/ as it is, and nothing of the model; without it, the reverse."""
    adapter = step / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"tensors")
    write_manifest(step, MANIFEST)
    assert main(["export", str(step), str(tmp_path / "adapter"), "--adapter"]) == 0
    files = {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json": b"{}", "adapter_model.safetensors": b"tensors"}
    assert main(["export", str(step), str(tmp_path / "model")]) == 0
    assert not (tmp_path / "model" / "adapter_config.json").exists()


def test_what_the_adapter_says_of_its_base_is_shown(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, so that stdout stays the folder alone; the note goes along."""
    (step / "adapter").mkdir()
    (step / "adapter" / "README.md").write_text("The base is of the original format.\n")
    write_manifest(step, MANIFEST)
    assert main(["export", str(step), str(tmp_path / "out"), "--adapter"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(tmp_path / "out")
    assert shown.err == "The base is of the original format.\n"
    assert (tmp_path / "out" / "README.md").is_file()


def test_full_training_has_no_adapter_to_export(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says why, exit code 2, nothing written."""
    assert main(["export", str(step), str(tmp_path / "out"), "--adapter"]) == 2
    assert "holds no adapter/ folder: the run had no learner.lora" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _corrupt(step: Path, out: Path) -> None:
    file = step / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")


def _without_model(step: Path, out: Path) -> None:
    for file in (step / "model").iterdir():
        file.unlink()
    write_manifest(step, MANIFEST)


def _occupy(step: Path, out: Path) -> None:
    out.mkdir()
    (out / "precious.txt").write_text("mine")


def _name(name: str) -> Callable[[Path, Path], None]:
    """A file outside that the manifest names and whose digest is right."""

    def spoil(step: Path, out: Path) -> None:
        (step.parent / "outside.json").write_text("not of this checkpoint")
        path = step / "model" / "away"
        path.symlink_to(step.parent)
        manifest = json.loads((step / "manifest.json").read_text())
        named = name.format(parent=step.parent)
        manifest["files"][named] = sha256(step.parent / "outside.json")
        (step / "manifest.json").write_text(json.dumps(manifest))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_name("model/../../outside.json"), "names 'model/../../outside.json', which is not in"),
        (_name("../outside.json"), "names '../outside.json', which is not in its folder"),
        (_name("{parent}/outside.json"), "outside.json', which is not in its folder"),
        (_name("model\\..\\outside.json"), "outside.json', which is not in its folder"),
        (_name("model/away/outside.json"), "names 'model/away/outside.json', which is not in"),
        (lambda step, out: (step / "manifest.json").unlink(), "has no manifest.json"),
        (_corrupt, "model.safetensors is corrupt: its SHA-256 is not the manifest's"),
        (lambda step, out: (step / "model" / "config.json").unlink(), "config.json is missing"),
        (_without_model, "holds no model/ folder"),
        (_occupy, "is not an empty folder; nothing was written"),
        (lambda step, out: out.write_text("a file"), "is not an empty folder"),
    ],
    ids=[
        "up",
        "up at once",
        "absolute",
        "backslashes",
        "a link",
        "not finished",
        "corrupt",
        "file missing",
        "no model",
        "not empty",
        "a file",
    ],
)
def test_each_mistake_is_one_line_and_writes_nothing(
    step: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path, Path], object],
    message: str,
) -> None:
    """Exit code 2; what was in OUT is as it was."""
    out = tmp_path / "out"
    spoil(step, out)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(step), str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_place_is_named(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUT lies below a file."""
    (tmp_path / "file").write_text("")
    assert main(["export", str(step), f"{tmp_path}/file/out"]) == 2
    assert "file/out cannot be written: Not a directory" in capsys.readouterr().err
