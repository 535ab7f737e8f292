"""The worked example of docs/own_prompts.md: its rows are read, and its settings load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.inputs import training_prompts
from orchestrator.settings.run_config import load_config
from policy.prompts import load_prompts
from rewards.detection.boxes import LOCALITIES
from rewards.detection.caption import detection_prompt
from rewards.detection.detection_score import missing_info
from rewards.models.git import questions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_prompts.md").read_text(encoding="utf-8")
ROWS, SETTINGS = re.findall(r"^```(?:json|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FRESH = '{"prompt": "A green apple and a red mug.", "task_type": "color"}\n'  # a leak


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the user stands, with the files that the page says."""
    monkeypatch.chdir(tmp_path)
    Path("my_prompts.jsonl").write_text(ROWS, encoding="utf-8")
    Path("my_fresh_prompts.jsonl").write_text(FRESH, encoding="utf-8")
    Path("my-prompts.yaml").write_text(SETTINGS.replace("base: ", f"base: {ROOT}/"), "utf-8")
    return tmp_path


def test_every_row_gives_the_rewards_what_they_read() -> None:
    """GIT asks about attributes, and GroundingDINO looks for the objects of each task."""
    prompts = load_prompts(Path("my_prompts.jsonl"))
    assert [questions(prompt) for prompt in prompts] == [("green apple?", "red mug?"), (), ()]
    captions = [detection_prompt(prompt).caption for prompt in prompts]
    assert captions == ["apple . mug.", "cat . sofa.", "banana."]
    assert [missing_info(prompt) for prompt in prompts] == [None] * 3
    named = PAGE.split("`locality` is one of ")[1].split(". ")[0]
    assert tuple(re.findall(r"`([^`]+)`", named)) == LOCALITIES


def test_the_settings_load_and_drop_the_leak() -> None:
    """The sets of the base are replaced, and the row that is also a fresh prompt is left out."""
    config = load_config(Path("my-prompts.yaml"), [])
    assert set(config.data.evaluation.values()) == {
        Path("my_prompts.jsonl"),
        Path("my_fresh_prompts.jsonl"),
    }
    prompts, leaks = training_prompts(config.data)
    assert ([prompt.task_type for prompt in prompts], len(leaks)) == (["spatial", "numeracy"], 1)


def test_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run that needs no other model reads the rows. A row without a task type ends it with
    the line of the page."""
    (words,) = re.findall(r"`eg-grpo (train \S+ --dry-run data\.train=\S+)`", PAGE)
    command = words.replace("configs/", f"{ROOT}/configs/").split()
    assert main(command) == 0
    broken = ROWS.replace('"task_type": "numeracy", ', "")
    assert broken != ROWS
    Path("my_prompts.jsonl").write_text(broken, encoding="utf-8")
    assert main(command) == 2
    assert f"```\n{capsys.readouterr().err.splitlines()[-1]}\n```" in PAGE
