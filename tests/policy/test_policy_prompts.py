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
    "evaluation": {"chunks": ["two cats", "a dog"]},
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
            evaluation={"chunks": ["two cats", "a dog"]},
        ),
        Prompt(id="train:3", text="a red circle", task_type="color"),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "prompt must be a string"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "\u200b\ufeff\t"}, "prompt is empty, or nothing of it can be seen"),
        ({"prompt": "a \ud83d"}, "prompt holds half a surrogate pair"),
        ({"task_type": " "}, "task_type is empty"),
        ({"task_type": "\ud83d"}, "task_type holds half a surrogate pair"),
        ({"nouns": ["cat", ""]}, "nouns is empty, or nothing of it can be seen: ''"),
        ({"nouns": ["\u200d\u00ad"]}, r"nothing of it can be seen: '\\u200d\\xad'"),
        ({"nouns": ["\u3164"]}, "nouns is empty"),
        ({"nouns": ["\u0301"]}, "nouns is empty"),
        ({"nouns": ["\0"]}, "nouns is empty"),
        ({"nouns": ["cat", "x\udc00"]}, r"nouns\[1\] holds half a surrogate pair"),
        ({"nouns": ""}, "nouns must be a list"),
        ({"nouns": {}}, "nouns must be a list"),
        ({"attr_nouns": ["\u2800"]}, "attr_nouns is empty"),
        ({"attr_nouns": ["\udc00"]}, r"attr_nouns\[0\] holds half a surrogate pair"),
        ({"spatial_info": {"obj1": " ", "obj2": "b", "locality": "above"}}, "spatial_info.obj1 is"),
        ({"spatial_info": {"obj1": "a", "obj2": "b", "locality": ""}}, "spatial_info.locality is"),
        (
            {"spatial_info": {"obj1": "a", "obj2": "\ud83d", "locality": "above"}},
            "spatial_info.obj2 holds half",
        ),
        ({"numeracy_info": [{"obj_name": "\t", "num": 1}]}, "numeracy_info.obj_name is empty"),
        ({"numeracy_info": [{"obj_name": "\ud83d", "num": 1}]}, "obj_name holds half a surrogate"),
        ({"numeracy_info": ""}, "numeracy_info must be a list of objects"),
        ({"\ud83d": 1}, "holds half a surrogate pair"),
        ({"note": {"by": ["\ud83d"]}}, r"note.by\[0\] holds half a surrogate pair"),
        ({"task_type": 3}, "task_type must be a string, not int"),
        ({"nouns": "cat"}, "nouns must be a list of strings"),
        ({"nouns": [1]}, "nouns must be a string, not int"),
        ({"spatial_info": "left"}, "spatial_info must be an object"),
        ({"evaluation": ["a cat"]}, "evaluation must be an object"),
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


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "task_type": "color", "prompt": "b"}', "key 'prompt' is there twice"),
        (
            '{"prompt": "a", "task_type": "numeracy",'
            ' "numeracy_info": [{"num": 1, "obj_name": "a", "num": 2}]}',
            "key 'num' is there twice",
        ),
        ('{"prompt": "a", "task_type": "color", "weight": NaN}', "NaN is not a number of JSON"),
    ],
)
def test_what_json_lets_pass_in_a_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """At any depth; the second value would have stood for the first, in silence."""
    path = write(tmp_path, "", json.dumps(PLAIN), line)
    with pytest.raises(UserError, match=f"^{path}:3: .*{reason}"):
        load_prompts(path)


def test_names_lose_their_margins_and_the_prompt_does_not(tmp_path: Path) -> None:
    """The detector has no token for a blank or a zero-width character at the end of a name."""
    row = {
        "prompt": " a car  below a zebra\u200b\n",
        "task_type": "spatial ",
        "nouns": [" car", "zebra\u200b \t", "ice  cream", "\u200dcafe\u0301"],
        "attr_nouns": ["\ufeffred car\n"],
        "spatial_info": {"obj1": "car ", "obj2": "\u00a0zebra", "locality": " below "},
        "numeracy_info": [{"obj_name": " owl\0", "num": 2}],
    }
    assert load_prompts(write(tmp_path, json.dumps(row))) == [
        Prompt(
            id="train:1",
            text=" a car  below a zebra\u200b\n",
            task_type="spatial",
            nouns=("car", "zebra", "ice  cream", "cafe\u0301"),
            attr_nouns=("red car",),
            spatial_info=SpatialInfo("car", "zebra", "below"),
            numeracy_info=(NumeracyItem("owl", 2),),
        )
    ]


def test_an_editor_does_not_change_what_is_read(tmp_path: Path) -> None:
    """Byte-order marks, of joined files too, and line ends; a row may hold U+2028 in its text."""
    rows = [json.dumps({**PLAIN, "prompt": f"a\u2028{n}"}, ensure_ascii=False) for n in (1, 2)]
    path = tmp_path / "train.jsonl"
    path.write_bytes("".join(f"\ufeff{row}\r\n" for row in rows).encode())
    assert [(p.id, p.text) for p in load_prompts(path)] == [
        ("train:1", "a\u20281"),
        ("train:2", "a\u20282"),
    ]


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
