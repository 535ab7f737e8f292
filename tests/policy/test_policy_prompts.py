"""Prompt files: good rows load unchanged, a broken row is named by file and line."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from policy.errors import UserError
from policy.prompts import load_prompts
from policy.types import NumeracyItem, Prompt, SpatialInfo

PLAIN = {"prompt": "a red circle", "task_type": "color"}
FULL = {
    "prompt": "two cats on the left of a dog",
    "task_type": "spatial",
    "nouns": ["cats", "dog"],
    "attr_nouns": ["two cats"],
    "spatial_info": {"obj1": "cats", "obj2": "dog", "locality": "on the left of"},
    "numeracy_info": [{"obj_name": "cat", "num": 2}],
    "anything_else": 1,
}


def write(folder: Path, *lines: str) -> Path:
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_rows_of_the_public_format_load(tmp_path: Path) -> None:
    """Every field is kept, keys nobody asked for are not, and null is the same as absent."""
    absent = {**PLAIN, "spatial_info": None, "numeracy_info": None, "nouns": None}
    path = write(tmp_path, json.dumps(FULL), "", json.dumps(absent))
    assert load_prompts(path) == [
        Prompt(
            id="train:1",
            text="two cats on the left of a dog",
            task_type="spatial",
            nouns=("cats", "dog"),
            attr_nouns=("two cats",),
            spatial_info=SpatialInfo("cats", "dog", "on the left of"),
            numeracy_info=(NumeracyItem("cat", 2),),
        ),
        Prompt(id="train:3", text="a red circle", task_type="color"),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "prompt must be a string"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"task_type": 3}, "task_type must be a string, not int"),
        ({"nouns": "cat"}, "nouns must be a list of strings"),
        ({"nouns": [1]}, "nouns must be a string, not int"),
        ({"spatial_info": "left"}, "spatial_info must be an object"),
        ({"spatial_info": {"obj1": "a", "obj2": "b"}}, "key 'locality' is missing"),
        ({"numeracy_info": [3]}, "numeracy_info must be a list of objects"),
        ({"numeracy_info": 3}, "numeracy_info must be a list of objects"),
        ({"numeracy_info": [{"obj_name": "cat"}]}, "key 'num' is missing"),
        ({"numeracy_info": [{"obj_name": "cat", "num": 0}]}, "whole number of 1 or more"),
        ({"numeracy_info": [{"obj_name": "cat", "num": True}]}, "whole number of 1 or more"),
        ({"numeracy_info": [{"obj_name": "cat", "num": 1.5}]}, "whole number of 1 or more"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """One line with the file, the line number and the key."""
    path = write(tmp_path, json.dumps(PLAIN), json.dumps({**PLAIN, **change}))
    with pytest.raises(UserError, match=reason) as caught:
        load_prompts(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[1]", "expected a JSON object"),
        ("{}", "key 'prompt' is missing"),
        ('{"prompt": "a"}', "key 'task_type' is missing"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """The same for what is not even an object with the two keys."""
    path = write(tmp_path, json.dumps(PLAIN), json.dumps(PLAIN), line)
    with pytest.raises(UserError, match=reason) as caught:
        load_prompts(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_file_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    """Missing, empty, or not text."""
    with pytest.raises(UserError, match="does not exist"):
        load_prompts(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="holds no prompt"):
        load_prompts(write(tmp_path, "", " "))
    (tmp_path / "binary.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(UserError, match=r"binary\.jsonl:1: byte 0xff is not UTF-8"):
        load_prompts(tmp_path / "binary.jsonl")


@pytest.mark.skipif(
    "EG_GRPO_TRAINING_FILE" not in os.environ,
    reason="EG_GRPO_TRAINING_FILE does not name the public training file (eg-grpo data fetch)",
)
def test_the_public_training_file_loads_unchanged() -> None:
    """All 7,223 rows of all eight kinds, each with what its kind is judged by, no text changed."""
    path = Path(os.environ["EG_GRPO_TRAINING_FILE"])
    prompts = load_prompts(path)
    assert Counter(prompt.task_type for prompt in prompts) == {
        "spatial": 2195, "numeracy": 1172, "color": 879, "complex": 700, "non": 700,
        "texture": 695, "shape": 682, "object": 200,
    }  # fmt: skip
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 7223
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [prompt.text for prompt in prompts] == [row["prompt"] for row in rows]
    for prompt in prompts:
        assert prompt.nouns
        assert bool(prompt.numeracy_info) == (prompt.task_type == "numeracy")
        assert bool(prompt.attr_nouns) == (prompt.task_type in ("color", "shape", "texture"))
        assert prompt.spatial_info is not None or prompt.task_type != "spatial"
