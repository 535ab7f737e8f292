"""``eg-grpo rewards test``: a configuration's rewards on one image, without a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli import main
from shapes.render import render
from shapes.request import Request
from shapes.scenes import Item, Scene
from shapes.world import Kind

PROMPT = "a photo of a yellow square above a cyan circle"


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


def test_another_size_is_a_failure_and_not_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rewards of the shapes world judge images of one size alone."""
    file = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    assert main(["rewards", "test", "shapes", "--image", str(file), "--prompt", PROMPT]) == 1
    assert "total" not in capsys.readouterr().out
