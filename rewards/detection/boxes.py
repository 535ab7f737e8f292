"""Geometry of boxes: overlap, suppression of duplicates, and the relation of two boxes.

A box is (x_min, y_min, x_max, y_max) in fractions of the image's width and height; y grows
downwards, as in T2I-CompBench and the public reward code.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]  # n 4

MAX_IOU = 0.1  # two objects that overlap more lie on each other, not beside each other
# The axis of each direction, and the sign that (second - first) must have along it.
DIRECTIONS = {
    "right of": (0, -1),
    "on the right of": (0, -1),
    "left of": (0, 1),
    "on the left of": (0, 1),
    "below": (1, -1),
    "on the bottom of": (1, -1),
    "top of": (1, 1),
    "on the top of": (1, 1),
    "on top of": (1, 1),
    "above": (1, 1),
}
NEARNESS = ("next to", "near", "on side of")
LOCALITIES = (*DIRECTIONS, *NEARNESS)


def corners(centred: Boxes) -> Boxes:
    """From (centre x, centre y, width, height)."""
    half = centred[:, 2:] / 2
    return np.concatenate((centred[:, :2] - half, centred[:, :2] + half), axis=1)


def iou(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Intersection over union of one box (4) with each of others (n 4); NaN where both are empty.

    Boxes whose corners are the wrong way round get the value torchvision gives them.
    """
    overlap = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersection = np.maximum(overlap, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - intersection
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / union


def suppress(boxes: Boxes, scores: NDArray[np.float32], threshold: float = 0.5) -> list[int]:
    """Greedy non-maximum suppression: the indices of the boxes that are kept, best first.

    A box is dropped when its IoU with a better kept box is above ``threshold``.
    """
    kept: list[int] = []
    waiting = np.argsort(-scores, kind="stable")
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[~(iou(boxes[best], boxes[waiting]) > threshold)]
    return kept


def relation(first: Boxes, second: Boxes, locality: str, near: float) -> float:
    """How well ``first`` (4) is ``locality`` of ``second`` (4), in [0, 1].

    A direction gives 1 when the centres differ most along its axis and towards its side, less when
    the boxes overlap by more than ``MAX_IOU``, and otherwise 0. Nearness gives 1 when the centres
    are closer than ``near`` along either axis, and falls with the distance. ``locality`` is one of
    ``LOCALITIES``.
    """
    distance = (second[:2] + second[2:] - first[:2] - first[2:]) / 2
    if locality in NEARNESS:
        closest, farthest = float(np.abs(distance).min()), float(np.abs(distance).max())
        return 1.0 if closest < near else near / farthest
    axis, sign = DIRECTIONS[locality]
    if sign * distance[axis] <= 0 or abs(distance[axis]) <= abs(distance[1 - axis]):
        return 0.0
    overlap = float(iou(first, second[None])[0])
    if math.isnan(overlap):
        return 0.0
    return 1.0 if overlap < MAX_IOU else MAX_IOU / overlap
