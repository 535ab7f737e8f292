"""``eg-grpo rewards test``: a configuration's rewards on one image, without a cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli import main
from shapes.render import render
from shapes.request import Request
from shapes.scenes import Item, Scene
from shapes.world import Kind
from tests.command_line import MY_REWARD, MY_REWARDS, ROOT, SCRIPT, needs_script

PROMPT = "a photo of a yellow square above a cyan circle"
VARIABLE_REWARD = """
import os

from policy.types import Score


class Bright:
    def score(self, images, prompts):
        return [Score(float(os.environ.get("BRIGHT", "0")))] * len(images)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the prompt asks for, as a PNG file."""
    square, circle = Kind("yellow", "square"), Kind("cyan", "circle")
    request = Request("spatial", (square, circle), "above")
    file = tmp_path / "image.png"
    items = (Item(square, "small", 4, 4), Item(circle, "large", 8, 16))
    Image.fromarray(render(Scene(request, items))).save(file)
    return file


def test_the_right_image_gets_the_best_scores(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each reward with its weight, and the weighted total. The prompt brings the objects
    that its file names."""
    assert main(["rewards", "test", "shapes", "--image", str(image), "--prompt", PROMPT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "prompt train:1 (spatial)"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "attributes", "structure", "cleanliness", "total",
    ]  # fmt: skip
    assert "weight 0.4" in lines[1]
    assert float(lines[4].split()[1]) > 0.9


def test_a_reward_that_cannot_score_is_named_with_its_reason(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text of no prompt file has no objects, which these rewards need: exit code 1."""
    assert main(["rewards", "test", "shapes", "--image", str(image), "--prompt", "a cat"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("prompt of no prompt file: its objects are unknown\n")
    assert "attributes: failed: " in printed.out
    assert printed.err == "eg-grpo: no score from attributes, structure, cleanliness\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"no image", "cannot be read as an image")],
)
def test_a_file_that_is_no_image_is_refused(
    content: bytes | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the flag and the file, exit code 2."""
    file = tmp_path / "file.png"
    if content is not None:
        file.write_bytes(content)
    assert main(["rewards", "test", "shapes", "--image", str(file), "--prompt", PROMPT]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"eg-grpo: --image: {file} {reason}")
    assert error.count("\n") == 1


@needs_script
def test_the_installed_script_finds_a_reward_in_the_working_folder(
    image: Path, tmp_path: Path
) -> None:
    """As docs/own_reward.md has it: ``my_rewards.py`` lies in the folder where a user types
    ``eg-grpo``. The mean of a white image is 1."""
    (tmp_path / "my_rewards.py").write_text(MY_REWARDS, encoding="utf-8")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    done = subprocess.run(
        [SCRIPT, "rewards", "test", "shapes", MY_REWARD, "--image", "white.png", "--prompt", "x"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[1:] == ["brightness: 1.0000, weight 1", "total: 1.0000"]


def test_the_variables_of_a_reward_are_not_those_of_the_next(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a run, where each reward has processes of its own. The first has a variable; neither
    the second nor this process has it afterwards."""
    (tmp_path / "variable_rewards.py").write_text(VARIABLE_REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    factory = "factory: variable_rewards:Bright"
    rewards = (
        f"rewards=[{{name: first, {factory}, runtime_env: {{env_vars: {{BRIGHT: '1'}}}}}},"
        f" {{name: second, {factory}}}]"
    )
    words = ["rewards", "test", "shapes", rewards, "--image", str(image), "--prompt", PROMPT]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "first: 1.0000, weight 1",
        "second: 0.0000, weight 1",
    ]
    assert "BRIGHT" not in os.environ


def test_another_size_is_a_failure_and_not_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rewards of the shapes world judge images of one size alone."""
    file = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    assert main(["rewards", "test", "shapes", "--image", str(file), "--prompt", PROMPT]) == 1
    assert "total" not in capsys.readouterr().out
