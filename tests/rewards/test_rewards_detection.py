"""The detector's prompts and scores: three variants, on boxes written down by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.prompts import load_prompts
from policy.types import NumeracyItem, Prompt, SpatialInfo
from rewards.detection.boxes import corners, iou
from rewards.detection.caption import (
    detection_prompt,
    published_detection_prompt,
)
from rewards.detection.detection_score import VARIANTS, Found, Variant, detection_score
from rewards.detection.variants_table import CASES, table
from rewards.models.git import questions

ROOT = Path(__file__).parent.parent.parent
LEFT, RIGHT = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2)
TOP, BOTTOM = (0.5, 0.2, 0.2, 0.2), (0.5, 0.8, 0.2, 0.2)
PLACES = {
    "left of": (LEFT, RIGHT), "on the left of": (LEFT, RIGHT),
    "right of": (RIGHT, LEFT), "on the right of": (RIGHT, LEFT),
    "above": (TOP, BOTTOM), "on the top of": (TOP, BOTTOM),
    "below": (BOTTOM, TOP), "on the bottom of": (BOTTOM, TOP),
    "next to": (LEFT, RIGHT), "near": (LEFT, RIGHT), "on side of": (LEFT, RIGHT),
}  # fmt: skip


def found(name: str, *boxes: tuple[float, ...]) -> Found:
    scores = np.linspace(0.9, 0.4, len(boxes), dtype=np.float32)
    return Found(name, np.array(boxes, dtype=np.float32).reshape(-1, 4), scores)


def spatial(locality: str) -> Prompt:
    return Prompt("p:1", f"a car {locality} a zebra", "spatial", ("car", "zebra"), (),
                  SpatialInfo("car", "zebra", locality))  # fmt: skip


def numeracy(noun: str, number: int) -> Prompt:
    return Prompt("p:2", f"{number} {noun}s", "numeracy", (noun,), (), None,
                  (NumeracyItem(noun, number),))  # fmt: skip


def objects(text: str, *nouns: str) -> Prompt:
    return Prompt("p:3", text, "color", nouns)


@pytest.mark.parametrize("locality", sorted(PLACES))
def test_every_locality_of_the_public_file_can_reach_the_maximum(locality: str) -> None:
    """0.9 in the right places, and 0.4 with the objects swapped (near ones have no order).

    R1: the published variants leave "above" at 0.4.
    """
    first, second = PLACES[locality]
    there = [found("car", first), found("zebra", second)]
    swapped = [found("car", second), found("zebra", first)]
    assert detection_score(there, spatial(locality), "corrected") == pytest.approx(0.9)
    near = locality in ("next to", "near", "on side of")
    assert detection_score(swapped, spatial(locality), "corrected") == pytest.approx(
        0.9 if near else 0.4
    )
    for variant in ("published", "published-strict"):
        expected = 0.4 if locality == "above" else 0.9
        assert detection_score(there, spatial(locality), variant) == pytest.approx(expected)  # type: ignore[arg-type]


def test_nearness_is_a_share_of_the_image() -> None:
    """R2: in opposite corners two objects are not next to each other, whatever was published."""
    apart = [found("car", (0.1, 0.1, 0.1, 0.1)), found("zebra", (0.9, 0.9, 0.1, 0.1))]
    expected = 0.4 + 0.5 * (150 / 512) / 0.8
    assert detection_score(apart, spatial("next to"), "corrected") == pytest.approx(expected)
    assert detection_score(apart, spatial("next to"), "published") == pytest.approx(0.9)


@pytest.mark.parametrize("variant", ["corrected", "published-strict"])
def test_extra_objects_cost_in_the_strict_formula(variant: Variant) -> None:
    """Two far apart zebras where one was asked for: 0.2 + 0.1, and no position."""
    two = [found("car", LEFT), found("zebra", RIGHT, TOP)]
    assert detection_score(two, spatial("left of"), variant) == pytest.approx(0.3)
    assert detection_score(two, spatial("left of"), "published") == pytest.approx(0.9)


def test_several_queries_on_one_object_are_one_object() -> None:
    """R4: strict takes 0.1 and the position for a query that fired twice."""
    twice = [found("car", LEFT), found("zebra", RIGHT, (0.81, 0.5, 0.2, 0.2))]
    assert detection_score(twice, spatial("left of"), "corrected") == pytest.approx(0.9)
    assert detection_score(twice, spatial("left of"), "published-strict") == pytest.approx(0.3)


def test_a_plural_noun_may_be_there_more_than_once() -> None:
    """R4: three gloves are what "rubber gloves" asks for."""
    prompt = objects("a pair of rubber gloves", "rubber glove")
    three = [found("rubber glove", LEFT, RIGHT, TOP)]
    assert detection_score(three, prompt, "corrected") == 1
    assert detection_score(three, prompt, "published-strict") == 0
    assert detection_score(three, objects("a rubber glove", "rubber glove"), "corrected") == 0


def test_a_noun_of_three_words_can_be_found() -> None:
    """R5: the public code knows it by first and last word, a name that no prompt asks for."""
    prompt = objects("a conical ice cream cone", "ice cream cone")
    assert detection_prompt(prompt).names == ("ice cream cone",)
    assert published_detection_prompt(prompt).names == ("ice cone",)
    assert detection_score([found("ice cream cone", LEFT)], prompt, "corrected") == 1
    assert detection_score([found("ice cone", LEFT)], prompt, "published") == 0


def test_a_duplicate_noun_is_looked_for_once() -> None:
    """R6: one umbrella, named twice, is 1 of 1; strict counts its boxes for both: 2 halves of 1."""
    prompt = objects("a red umbrella on a black umbrella stand", "umbrella", "umbrella")
    assert detection_prompt(prompt).caption == "umbrella."
    assert detection_score([found("umbrella", LEFT)], prompt, "corrected") == 1
    twice = [found("umbrella", LEFT), found("umbrella", LEFT)]
    assert detection_score(twice, prompt, "published-strict") == pytest.approx(0.5)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 3))
def test_counting(asked: int, there: int, queries: int) -> None:
    """1 for the exact number of objects, 0.2 for another, 0 for none, however many queries fire."""
    boxes = [(0.06 + 0.12 * k, 0.5, 0.1, 0.1) for k in range(there) for _ in range(queries)]
    expected = 1.0 if asked == there else 0.2 if there else 0.0
    result = detection_score([found("owl", *boxes)], numeracy("owl", asked), "corrected")
    assert result == pytest.approx(expected)


def test_boxes_are_suppressed_as_what_they_are() -> None:
    """R3: two queries on one small object count as two when centred boxes pass for corners."""
    twice = [found("owl", (0.5, 0.5, 0.1, 0.1), (0.505, 0.5, 0.1, 0.1))]
    assert detection_score(twice, numeracy("owl", 1), "corrected") == 1
    assert detection_score(twice, numeracy("owl", 1), "published") == pytest.approx(0.2)
    overlap = iou(corners(twice[0].boxes)[0], corners(twice[0].boxes)[1:])
    assert overlap[0] > 0.5


def test_two_kinds_of_things_are_counted_each() -> None:
    """Mean over the items."""
    prompt = Prompt("p:2", "two owls and one cat", "numeracy", ("owl", "cat"), (), None,
                    (NumeracyItem("owl", 2), NumeracyItem("cat", 1)))  # fmt: skip
    there = [found("owl", LEFT, RIGHT), found("cat", LEFT, RIGHT)]
    assert detection_score(there, prompt, "corrected") == pytest.approx((1 + 0.2) / 2)


def test_what_cannot_be_judged_is_an_error_and_not_a_zero() -> None:
    """R7: whether the objects are there or not; the public code gives 0 for the second."""
    for there in ([found("car", LEFT), found("zebra", RIGHT)], [found("car"), found("zebra")]):
        with pytest.raises(ValueError, match="locality 'inside' is not known"):
            detection_score(there, spatial("inside"), "corrected")
    same = Prompt("p:1", "a cat left of a cat", "spatial", ("cat", "cat"), (),
                  SpatialInfo("cat", "cat", "left of"))  # fmt: skip
    with pytest.raises(ValueError, match="'cat' twice"):
        detection_score([found("cat", LEFT)], same, "corrected")
    assert detection_score([found("cat", LEFT)] * 2, same, "published") == 0
    for variant in VARIANTS:
        with pytest.raises(ValueError, match="without spatial_info"):
            detection_score([found("car")], Prompt("p:1", "x", "spatial", ("car",)), variant)
        with pytest.raises(ValueError, match="without numeracy_info"):
            detection_score([found("car")], Prompt("p:1", "x", "numeracy", ("car",)), variant)


def test_what_the_prompt_names_in_the_plural_may_be_there_twice() -> None:
    """R4: two shoes and two boots are as asked; a second dog beside two cats is not."""
    prompt = objects("The brown shoes were next to the black boots.", "shoes", "boots")
    there = [found("shoes", LEFT, RIGHT), found("boots", TOP, BOTTOM)]
    assert detection_score(there, prompt, "corrected") == 1
    prompt = objects("two cats, a dog", "cat", "dog")
    there = [found("cat", LEFT, RIGHT), found("dog", TOP, BOTTOM)]
    assert detection_score(there, prompt, "corrected") == 0.75


words = st.text("abcdefgh-", min_size=1, max_size=6)
nouns = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=5)


@settings(deadline=None)
@given(nouns)
def test_spans_are_the_names(names: list[str]) -> None:
    """Corrected: each different noun whole. Published: first and last word of every one."""
    prompt = objects("x", *names)
    ours = detection_prompt(prompt)
    assert ours.names == tuple(dict.fromkeys(names))
    assert ours.names == tuple(ours.caption[a:b] for ((a, b),) in ours.spans)
    theirs = published_detection_prompt(prompt)
    assert theirs.caption == " . ".join(names) + "."
    for noun, name, spans in zip(names, theirs.names, theirs.spans, strict=True):
        first, *_, last = noun.split(" ") if " " in noun else [noun, noun]
        pieces = [theirs.caption[a:b] for a, b in spans]
        assert pieces == ([first, last] if " " in noun else [noun])
        assert name == " ".join(pieces)


def test_captions_by_hand() -> None:
    """The public format."""
    prompt = spatial("left of")
    for prepare in (detection_prompt, published_detection_prompt):
        prepared = prepare(prompt)
        assert prepared.caption == "car . zebra."
        assert prepared.spans == (((0, 3),), ((6, 11),))


def test_the_table_of_variants_is_the_one_in_the_docs() -> None:
    """``python -m rewards.detection.variants_table`` prints what docs/rewards.md shows."""
    assert table() in (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert len(CASES) >= 10


ROWS = [
    {"prompt": "a photo of a book above a tv", "nouns": ["book", "tv"], "task_type": "spatial",
     "spatial_info": {"obj1": "book", "obj2": "tv", "locality": "above"}},
    {"prompt": "five goldfish", "nouns": ["goldfish"], "task_type": "numeracy",
     "numeracy_info": [{"obj_name": "goldfish", "num": 5}]},
    {"prompt": "a yellow post-it and a blue clipboard", "nouns": ["post-it", "clipboard"],
     "attr_nouns": ["yellow post-it", "blue clipboard"], "task_type": "color"},
    {"prompt": "A dog is playing with a Frisbee.", "nouns": ["dog", "Frisbee"], "task_type": "non"},
    {"prompt": "a conical ice cream cone", "nouns": ["ice cream cone"],
     "attr_nouns": ["conical ice cream cone"], "task_type": "shape"},
    {"prompt": "The red umbrella was on top of the black umbrella stand.", "task_type": "complex",
     "nouns": ["umbrella", "umbrella"],
     "spatial_info": {"obj1": "umbrella", "obj2": "umbrella", "locality": "on top of"}},
]  # fmt: skip


def prepared(file: Path) -> dict[str, int]:
    """Pass every prompt through every reward's preparation; how many of each task type."""
    counts: dict[str, int] = {}
    for prompt in load_prompts(file):
        counts[prompt.task_type] = counts.get(prompt.task_type, 0) + 1
        judged = prompt.task_type not in ("spatial", "numeracy")
        assert len(questions(prompt)) == judged * len(prompt.attr_nouns or prompt.nouns)
        for prepare in (detection_prompt, published_detection_prompt):
            asked = prepare(prompt)
            assert asked.names
            for name, spans in zip(asked.names, asked.spans, strict=True):
                assert name == " ".join(asked.caption[a:b] for a, b in spans)
        nothing = [Found(n, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
                   for n in detection_prompt(prompt).names]  # fmt: skip
        for variant in VARIANTS:
            assert detection_score(nothing, prompt, variant) == 0
    return counts


def test_rows_of_every_kind_are_prepared(tmp_path: Path) -> None:
    """In the format of the public training file."""
    file = tmp_path / "rows.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert sum(prepared(file).values()) == len(ROWS)


@pytest.mark.skipif(
    "EG_GRPO_TRAINING_FILE" not in os.environ,
    reason="EG_GRPO_TRAINING_FILE names the public training file",
)
def test_the_whole_public_training_file_is_prepared() -> None:
    """7,223 rows of eight task types."""
    assert prepared(Path(os.environ["EG_GRPO_TRAINING_FILE"])) == {
        "spatial": 2195, "numeracy": 1172, "color": 879, "complex": 700, "non": 700,
        "texture": 695, "shape": 682, "object": 200,
    }  # fmt: skip
