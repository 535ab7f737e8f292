"""Keys of earlier versions are answered by what stands in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.renamed import NO_DELAY, RENAMED
from rewards.factory import MOVED

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"


@pytest.mark.parametrize("where", ["file", "override"])
@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_says_the_new_one(
    old: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, whether a file gives the key or the command line."""
    room, _, key = old.partition(".")
    file = tmp_path / "old.yaml"
    file.write_text(f"base: {SHAPES}\n" + (f"{room}: {{{key}: x}}\n" if where == "file" else ""))
    assert main(["train", str(file), *([f"{old}=x"] if where == "override" else [])]) == 2
    assert capsys.readouterr().err == f"eg-grpo: {file}: {RENAMED[old]}\n"


@pytest.mark.parametrize("old", MOVED)
def test_an_old_reward_factory_says_the_new_one(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan reads the settings alone, and would else take the reward for an unknown one."""
    assert main(["doctor", "--plan", str(SHAPES), f"rewards.1.factory={old}"]) == 2
    expected = f"eg-grpo: {SHAPES}: rewards.1.factory: {old} is now {MOVED[old]}\n"
    assert capsys.readouterr().err == expected


def test_a_delay_of_a_reward_is_told_to_be_gone(capsys: pytest.CaptureFixture[str]) -> None:
    """Batches are cut by position, whenever their groups come."""
    assert main(["doctor", "--plan", str(SHAPES), "rewards.1.batch_delay_s=0.1"]) == 2
    line = f"eg-grpo: {SHAPES}: rewards.1.batch_delay_s: {NO_DELAY}\n"
    assert capsys.readouterr().err == line


def test_the_type_of_the_weights_is_a_setting_of_the_model() -> None:
    """It was the learner's."""
    assert RENAMED["learner.dtype"] == "learner.dtype is now model.dtype"
