"""T2I-CompBench's rules for places and numbers, by numbers written down."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.detection.unidet_rules import (
    Seen,
    detected_name,
    distinct,
    numeracy_score,
    spatial_score,
)

LEFT, RIGHT = [0.0, 200.0, 100.0, 300.0], [400.0, 200.0, 500.0, 300.0]


def seen(*corners: list[float], score: float = 0.75) -> Seen:
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    return Seen(boxes, np.full(len(boxes), score, np.float32))


NOTHING = seen()


@pytest.mark.parametrize(
    ("locality", "cat", "dog", "expected"),
    [
        ("on the left of", seen(LEFT), seen(RIGHT), 0.875),
        ("on the right of", seen(LEFT), seen(RIGHT), 0.0),  # 0.375, and below 0.5 it is 0
        ("near", seen(LEFT), seen(RIGHT), 0.875),  # 150 pixels along one axis are enough
        ("near", seen([0, 0, 100, 100]), seen([400, 400, 500, 500]), 0.375 + 0.5 * 150 / 400),
        ("on top of", seen(LEFT), seen(RIGHT), 0.0),  # known and never judged
        (None, seen(LEFT, score=1.0), seen(RIGHT, score=1.0), 0.5),
        ("on the left of", seen(LEFT), NOTHING, 0.0),
        ("on the left of", NOTHING, NOTHING, 0.0),
    ],
)
def test_a_spatial_score_below_a_half_is_none(
    locality: str | None, cat: Seen, dog: Seen, expected: float
) -> None:
    """A quarter of each probability and half of the relation, in an image of 512."""
    found = spatial_score(["cat", "dog"], locality, {"cat": cat, "dog": dog}, 512)
    assert found == pytest.approx(expected)


def test_a_half_is_kept() -> None:
    """Exactly 0.5 is not below 0.5."""
    both = {"cat": seen(LEFT, score=0.0), "dog": seen(RIGHT, score=0.0)}
    assert spatial_score(["cat", "dog"], "on the left of", both, 512) == 0.5


def test_near_is_a_share_of_the_side() -> None:
    """What is 150 / 400 in an image of 512 is the same in one of 256."""
    small = {"cat": seen([0, 0, 50, 50]), "dog": seen([200, 200, 250, 250])}
    assert spatial_score(["cat", "dog"], "near", small, 256) == pytest.approx(0.5625)


def test_a_prompt_without_objects_scores_nothing() -> None:
    """As the original does where it finds no two nouns."""
    assert spatial_score([], "near", {}, 512) == 0.0


@pytest.mark.parametrize(("number", "expected"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 0.5)])
def test_half_for_being_there_and_half_for_the_number(number: int, expected: float) -> None:
    """Two cats are asked for."""
    boxes = [[100.0 * place, 0.0, 100.0 * place + 50, 50.0] for place in range(number)]
    assert numeracy_score([("cat", 2)], {"cat": seen(*boxes)}) == expected


def test_numeracy_is_the_mean_of_the_objects() -> None:
    """One of two cats, the one dog, and none of three owls: (0.5 + 1 + 0) / 3."""
    found = {"cat": seen(LEFT), "dog": seen(RIGHT), "owl": NOTHING}
    assert numeracy_score([("cat", 2), ("dog", 1), ("owl", 3)], found) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ([0, 0, 9, 9], 1),  # lies inside
        ([0, 10, 99, 109], 2),  # 9,000 of 11,000, and 0.9 of each
        ([0, 9, 99, 108], 1),  # 0.91 of each
        ([200, 200, 299, 299], 2),
    ],
)
def test_boxes_that_cover_each_other_are_one_object(other: list[float], kept: int) -> None:
    """Beside [0, 0, 99, 99], of 100 x 100 pixels: by over 0.9 of either, or of the union."""
    assert len(distinct(np.array([[0, 0, 99, 99], other], np.float32))) == kept


def test_names_of_the_original_detector() -> None:
    """People are persons; four names are others where objects are counted."""
    assert [detected_name(name) for name in ("girl", "man", "ship", "cat")] == [
        "person", "person", "ship", "cat",
    ]  # fmt: skip
    counted = [detected_name(name, counting=True) for name in ("ship", "goldfish", "woman")]
    assert counted == ["boat", "fish", "person"]
