"""`eg-grpo generate`: where its pictures go, what it asks with. What it draws is tested with the
engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.cli import main
from policy.errors import UserError
from policy.sampling import Sampling

MODEL = str(Path(__file__).parents[3] / "shapes" / "checkpoint")
COMMAND = ["generate", "--model", MODEL, "--prompt", "a photo of a red circle", "--n", "1"]


def test_each_call_without_output_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """generated, generated-2, ...; what lies in a folder already stays, and the place is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generated-2").mkdir()
    (tmp_path / "generated-2" / "mine.txt").write_text("mine")
    for folder in ("generated", "generated-3"):
        assert main(COMMAND) == 0
        assert capsys.readouterr().out.strip() == f"{folder}/sheet.png"
        files = sorted(file.name for file in (tmp_path / folder).iterdir())
        assert files == ["0.png", "cots.jsonl", "sheet.png"]
    assert [file.name for file in (tmp_path / "generated-2").iterdir()] == ["mine.txt"]


def test_pictures_of_two_prompts_never_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with anything in it, or a file, is named and left as it is; before the model is
    loaded, for the one here does not exist."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "7.png").write_bytes(b"of another prompt")
    for output in ("old", "old/7.png"):
        command = ["generate", "--model", "./none", "--prompt", "x", "--output"]
        assert main([*command, str(tmp_path / output)]) == 2
        expected = f"eg-grpo: {tmp_path / output} is not an empty folder; nothing was written\n"
        assert capsys.readouterr().err == expected
    assert [file.name for file in (tmp_path / "old").iterdir()] == ["7.png"]


def test_an_unwritable_output_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies below a file."""
    (tmp_path / "file").write_text("")
    assert main([*COMMAND, "--output", str(tmp_path / "file" / "out")]) == 2
    expected = f"eg-grpo: --output: {tmp_path}/file/out cannot be written: Not a directory\n"
    assert capsys.readouterr().err == expected


def test_an_instruction_file_and_the_batch_are_its_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both reach the engine: a base model draws as a run with the same instruction would have it,
    in batches that fit the device. A wrong file or batch is one line that names the flag."""
    file = tmp_path / "instruction.txt"
    file.write_text("draw: {}")
    asked: dict[str, object] = {}

    def engine(config, folder, template, instruction, dtype):
        asked.update(batch_size=config.batch_size, instruction=instruction)
        raise UserError("enough")

    monkeypatch.setattr("rollout.transformers_engine.load_transformers_engine", engine)
    assert main([*COMMAND, "--instruction", str(file), "--batch-size", "3"]) == 2
    assert asked == {"batch_size": 3, "instruction": "draw: {}"}
    file.write_text("no place for the prompt")
    capsys.readouterr()
    assert main([*COMMAND, "--instruction", str(file)]) == 2
    assert "--instruction: " in capsys.readouterr().err
    assert main([*COMMAND, "--batch-size", "0"]) == 2
    assert "--batch-size must be 1 or more, not 0" in capsys.readouterr().err


def test_a_flag_overrides_its_own_field_of_the_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes checkpoint says guidance 1, temperature 1 and 24 tokens; the rest stays."""
    asked: list[Sampling] = []

    def engine(config, *_, **__):
        asked.append(config.sampling)
        raise UserError("enough")

    monkeypatch.setattr("rollout.transformers_engine.load_transformers_engine", engine)
    for flags in ([], ["--guidance", "5"], ["--temperature", "0.5"], ["--max-cot-tokens", "8"]):
        assert main([*COMMAND, *flags]) == 2
    assert asked == [
        Sampling(1.0, 1.0, 24), Sampling(5.0, 1.0, 24), Sampling(1.0, 0.5, 24),
        Sampling(1.0, 1.0, 8),
    ]  # fmt: skip


def test_a_full_device_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how many images had no room and which flag makes them fewer."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("rollout.transformers_engine.TransformersEngine.generate", full)
    assert main([*COMMAND, "--n", "20", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no room for 8 images at once; give a smaller --batch-size" in error
    assert error.count("\n") == 1
