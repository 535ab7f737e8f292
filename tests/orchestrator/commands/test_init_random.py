"""``eg-grpo init-random``: the folder is whole, and other commands use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main


def test_a_checkpoint_is_written_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It appears under its name alone; ``generate`` draws with it; it is not written over."""
    folder = tmp_path / "janus"
    write = ["init-random", "--like", "tiny", "--format", "original", str(folder)]
    assert main(write) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["janus"]
    images = tmp_path / "images"
    drawing = ["generate", "--model", str(folder), "--prompt", "a cat", "--n", "2"]
    assert main([*drawing, "--max-cot-tokens", "4", "--output", str(images)]) == 0
    assert (images / "1.png").is_file()
    capsys.readouterr()
    assert main(write) == 2
    assert capsys.readouterr().err == (
        f"eg-grpo: {folder} is not an empty folder; nothing was written\n"
    )


def test_an_impossible_size_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and no folder."""
    flags = ["--like", "tiny", "--image-size", "10", str(tmp_path / "janus")]
    assert main(["init-random", *flags]) == 2
    assert capsys.readouterr().err == "eg-grpo: --image-size must be a multiple of 4, not 10\n"
    assert list(tmp_path.iterdir()) == []
