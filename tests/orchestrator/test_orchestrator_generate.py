"""`eg-grpo generate`: where its pictures go. What it draws is tested with the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main

MODEL = str(Path(__file__).parents[2] / "shapes" / "checkpoint")
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
