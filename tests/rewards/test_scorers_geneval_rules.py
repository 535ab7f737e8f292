"""GenEval's rules on boxes, by numbers written down.

Boxes at thresholds and the relations of random boxes are those of djghosh13/geneval af4902f2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewards.detection.geneval_rules import (
    Clause,
    Request,
    best_boxes,
    is_correct,
    parse_request,
    relations,
)

LEFT, RIGHT = [0.0, 40.0, 20.0, 60.0], [80.0, 40.0, 100.0, 60.0]
CAT = {"class": "cat", "count": 1}


def boxes(*corners: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(corners, np.float32).reshape(-1, 4)


def test_a_box_must_be_above_the_threshold() -> None:
    """Of 0.5, 0.25 and the next float32 above 0.25, the exact 0.25 is not found."""
    at = np.float32(0.25)  # a threshold that float32 and float64 share
    scores = np.array([0.5, at, np.nextafter(at, np.float32(1))], np.float32)
    kept = best_boxes(boxes(LEFT, RIGHT, [1, 2, 3, 4]), scores, 0.25)
    assert kept.tolist() == [LEFT, [1, 2, 3, 4]]


def test_of_seventeen_boxes_the_worst_is_dropped() -> None:
    """The 16 best are kept, best first, and none is dropped for an overlap."""
    scores = np.linspace(0.4, 0.9, 17).astype(np.float32)
    corners = boxes(*[[0.0, 0.0, 10.0, 10.0 + place] for place in range(17)])
    kept = best_boxes(corners, scores, 0.3)
    assert kept[:, 3].tolist() == [26.0 - place for place in range(16)]


@pytest.mark.parametrize(
    ("box", "target", "expected"),
    [
        (LEFT, RIGHT, {"left of"}),
        (RIGHT, LEFT, {"right of"}),
        ([40, 0, 60, 20], [40, 80, 60, 100], {"above"}),
        ([40, 80, 60, 100], [40, 0, 60, 20], {"below"}),
        ([0, 0, 20, 20], [80, 80, 100, 100], {"left of", "above"}),
        (LEFT, LEFT, set()),
        # Reduced by a tenth of both widths, the offset of 4 becomes 0.
        ([0, 0, 20, 20], [4, 0, 24, 20], set()),
        # 8 becomes 4, which is exactly half of 8 and not more than half.
        ([0, 0, 20, 20], [8, 0, 28, 20], set()),
        ([0, 0, 20, 20], [9, 0, 29, 20], {"left of"}),
    ],
)
def test_a_relation_needs_more_than_half_of_the_offset(
    box: list[float], target: list[float], expected: set[str]
) -> None:
    """Two relations hold at once on a diagonal, and none for boxes that lie on each other."""
    assert relations(boxes(box)[0], boxes(target)[0]) == expected


def judged(row: dict[str, Any], found: dict[str, Any], colours: dict[str, list[str]]) -> bool:
    found = {name: boxes(*corners) for name, corners in found.items()}
    return is_correct(parse_request({"tag": "t"} | row), found, lambda name, _: colours[name])


@pytest.mark.parametrize(
    ("number", "expected"), [(0, False), (1, False), (2, True), (3, False), (4, False)]
)
def test_counting_is_at_least_n_and_less_than_n_plus_one(number: int, expected: bool) -> None:
    """``include`` two and ``exclude`` three: two alone are right."""
    row = {"include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
    assert judged(row, {"cat": [LEFT] * number}, {}) is expected


def test_colours_are_those_of_the_best_boxes() -> None:
    """Of three red and blue cats, the two best must both be red for two red cats."""
    row = {"include": [{"class": "cat", "count": 2, "color": "red"}]}
    assert judged(row, {"cat": [LEFT, RIGHT, LEFT]}, {"cat": ["red", "red"]})
    assert not judged(row, {"cat": [LEFT, RIGHT, LEFT]}, {"cat": ["red", "blue"]})


def test_colours_are_not_asked_about_too_few_boxes() -> None:
    """One cat cannot be two red cats, whatever its colour is."""
    assert not judged({"include": [{"class": "cat", "count": 2, "color": "red"}]}, {"cat": [LEFT]},
                      {})  # fmt: skip


def test_a_position_is_that_of_every_pair() -> None:
    """Both dogs must be right of the cat."""
    row = {"include": [CAT, {"class": "dog", "count": 2, "position": ["right of", 0]}]}
    assert judged(row, {"cat": [LEFT], "dog": [RIGHT, [60, 40, 80, 60]]}, {})
    assert not judged(row, {"cat": [LEFT], "dog": [RIGHT, LEFT]}, {})


def test_a_target_that_failed_fails_its_clause() -> None:
    """A dog right of a cat of the wrong colour is wrong twice, and no error."""
    row = {"include": [CAT | {"color": "red"},
                       {"class": "dog", "count": 1, "position": ["right of", 0]}]}  # fmt: skip
    assert not judged(row, {"cat": [LEFT], "dog": [RIGHT]}, {"cat": ["blue"]})


def test_a_public_row_becomes_a_request() -> None:
    """A row of the benchmark's file with everything that a row can have."""
    row = {"tag": "position", "prompt": "a photo of a tie above a sink",
           "include": [{"class": "sink", "count": 1, "color": "red"},
                       {"class": "tie", "count": 1, "position": ["above", 0]}],
           "exclude": [{"class": "sink", "count": 2}]}  # fmt: skip
    request = parse_request(row)
    assert request == Request(
        "position",
        (Clause("sink", 1, "red"), Clause("tie", 1, None, ("above", 0))),
        (Clause("sink", 2),),
    )
    assert request.names == ("sink", "tie")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'tag' is not a text"),
        ({"tag": "colors"}, "'include' names nothing"),
        ({"tag": "colors", "include": {"class": "cat"}}, "'include' is not a list of objects"),
        ({"tag": "colors", "include": [{"count": 1}]}, r"include\[0\]: 'class' is not a name"),
        ({"tag": "t", "include": [CAT | {"count": 0}]}, "'count' is 0, not a whole number"),
        ({"tag": "t", "include": [CAT | {"count": True}]}, "'count' is True, not a whole number"),
        ({"tag": "t", "include": [CAT | {"color": "grey"}]}, "'color' 'grey' is not one of red, "),
        ({"tag": "t", "include": [CAT | {"position": ["near", 0]}]}, "'position' .* is not a rel"),
        ({"tag": "t", "include": [CAT | {"position": ["above", 0]}]}, "clause 0, which is not ear"),
        ({"tag": "t", "include": [CAT], "exclude": [3]}, "'exclude' is not a list of objects"),
    ],
)
def test_a_malformed_row_is_refused(row: dict[str, Any], message: str) -> None:
    """With the key that is wrong."""
    with pytest.raises(ValueError, match=message):
        parse_request(row)
