"""Geometry: overlap, suppression, and the mirror symmetries of the relations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.detection.boxes import (
    DIRECTIONS,
    LOCALITIES,
    NEARNESS,
    Boxes,
    corners,
    iou,
    relation,
    suppress,
)

# The public training file's, with how often each occurs in its spatial rows.
PUBLIC = {
    "left of": 392, "below": 375, "right of": 369, "above": 364, "on the bottom of": 134,
    "on the left of": 130, "on the right of": 128, "on the top of": 121, "next to": 61,
    "on side of": 61, "near": 60,
}  # fmt: skip
OPPOSITE = {
    "left of": "right of", "on the left of": "on the right of", "above": "below",
    "on the top of": "on the bottom of", "on top of": "below", "top of": "below",
}  # fmt: skip

line = st.integers(0, 31)  # of a grid on which all sums are exact


@st.composite
def box(draw: st.DrawFn) -> Boxes:
    """Corners inside the image, not empty."""
    sides = [sorted((draw(line), draw(line))) for _ in range(2)]
    low, high = np.array(sides, dtype=np.float32).T / 32
    return np.concatenate((low, high + 1 / 32))


def test_corners_of_a_centred_box() -> None:
    """Centre 0.5, 0.5 of width 0.2 and height 0.4."""
    centred = np.array([[0.5, 0.5, 0.2, 0.4]], dtype=np.float32)
    np.testing.assert_allclose(corners(centred), [[0.4, 0.3, 0.6, 0.7]], rtol=1e-6)


def test_iou_of_boxes_by_hand() -> None:
    """Half overlapping: 1/3; itself: 1; apart: 0; nothing with nothing: not a number."""
    one = np.array([0, 0, 2, 2], dtype=np.float32)
    others = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]], dtype=np.float32)
    np.testing.assert_allclose(iou(one, others), [1 / 3, 1, 0])
    empty = np.zeros(4, dtype=np.float32)
    assert np.isnan(iou(empty, empty[None])[0])


@settings(deadline=None)
@given(st.lists(box(), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_suppression_keeps_the_best_and_no_two_alike(found: list[Boxes], seed: int) -> None:
    """Kept boxes overlap by at most the threshold; each other one overlaps a better kept one."""
    boxes = np.stack(found)
    scores = np.random.default_rng(seed).random(len(boxes)).astype(np.float32)
    kept = suppress(boxes, scores)
    assert kept[0] == int(np.argmax(scores))
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    for position, index in enumerate(kept):
        assert not (iou(boxes[index], boxes[kept[position + 1 :]]) > 0.5).any()
    for index in set(range(len(boxes))) - set(kept):
        better = [k for k in kept if scores[k] >= scores[index]]
        assert (iou(boxes[index], boxes[better]) > 0.5).any()


@settings(deadline=None)
@given(st.lists(box(), min_size=1, max_size=4), st.integers(1, 3))
def test_counting_does_not_depend_on_repeats(found: list[Boxes], repeats: int) -> None:
    """A query that fires several times on one object is one object."""
    boxes = np.stack(found)
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    again = suppress(np.tile(boxes, (repeats, 1)), np.tile(scores, repeats))
    assert len(again) == len(suppress(boxes, scores))


@pytest.mark.parametrize("locality", sorted(OPPOSITE))
@settings(deadline=None)
@given(first=box(), second=box())
def test_swapping_the_objects_mirrors_the_relation(
    locality: str, first: Boxes, second: Boxes
) -> None:
    """a left of b as much as b right of a; above and below alike."""
    assert relation(first, second, locality, 0.3) == relation(
        second, first, OPPOSITE[locality], 0.3
    )


@pytest.mark.parametrize("locality", sorted(OPPOSITE))
@settings(deadline=None)
@given(first=box(), second=box())
def test_mirroring_the_image_mirrors_the_relation(
    locality: str, first: Boxes, second: Boxes
) -> None:
    """Flipped along its axis, left becomes right; at most one of the two holds."""
    axis = DIRECTIONS[locality][0]
    flipped = []
    for one in (first, second):
        other = one.copy()
        other[[axis, axis + 2]] = -one[[axis + 2, axis]]
        flipped.append(other)
    there = relation(first, second, locality, 0.3)
    assert there == relation(*flipped, OPPOSITE[locality], 0.3)
    assert there == 0 or relation(first, second, OPPOSITE[locality], 0.3) == 0


@pytest.mark.parametrize("locality", NEARNESS)
@settings(deadline=None)
@given(first=box(), second=box())
def test_nearness_is_symmetric_and_falls_with_distance(
    locality: str, first: Boxes, second: Boxes
) -> None:
    """1 within 0.3 along an axis, else 0.3 over the larger distance."""
    value = relation(first, second, locality, 0.3)
    assert value == relation(second, first, locality, 0.3)
    distance = np.abs(first[:2] + first[2:] - second[:2] - second[2:]) / 2
    expected = 1 if distance.min() < 0.3 else 0.3 / distance.max()
    assert value == pytest.approx(expected)


def test_all_localities_of_the_public_file_are_known() -> None:
    """The 11 of its 2,195 spatial rows, "above" among them."""
    assert sum(PUBLIC.values()) == 2195
    assert set(PUBLIC) <= set(LOCALITIES)


@pytest.mark.parametrize(
    ("first", "second", "holding"),
    [
        ((0.1, 0.4, 0.3, 0.6), (0.7, 0.4, 0.9, 0.6), {"left of", "on the left of"}),
        ((0.7, 0.4, 0.9, 0.6), (0.1, 0.4, 0.3, 0.6), {"right of", "on the right of"}),
        ((0.4, 0.1, 0.6, 0.3), (0.4, 0.7, 0.6, 0.9),
         {"above", "on top of", "top of", "on the top of"}),
        ((0.4, 0.7, 0.6, 0.9), (0.4, 0.1, 0.6, 0.3), {"below", "on the bottom of"}),
    ],
)  # fmt: skip
def test_directions_by_hand(
    first: tuple[float, ...], second: tuple[float, ...], holding: set[str]
) -> None:
    """y grows downwards: what is above has the smaller y."""
    boxes = [np.array(one, dtype=np.float32) for one in (first, second)]
    assert {name for name in DIRECTIONS if relation(*boxes, name, 0.3) == 1} == holding


def test_an_overlap_costs_its_share() -> None:
    """IoU 1/3, above 0.1: 0.1 / (1/3) = 0.3."""
    first = np.array([0, 0, 2, 2], dtype=np.float32)
    second = np.array([1, 0, 3, 2], dtype=np.float32)
    assert relation(first, second, "left of", 0.3) == pytest.approx(0.3)
