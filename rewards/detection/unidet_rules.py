"""T2I-CompBench's rules for places and numbers of objects, by the boxes that were found.

Boxes are corners in pixels. Sources: T2I-CompBench 1b709499, ``UniDet_eval/2D_spatial_eval.py`` and
``numeracy_eval.py``. The benchmark's detector names each box with one of its own classes; here each
object is looked for by its own name, so that no box must be renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.detection.boxes import Boxes, relation

# Other words of a prompt have no place, such as "on top of", which the original knows and never
# judges.
_JUDGED = (
    "next to", "on side of", "near", "on the right of", "on the left of", "on the bottom of",
    "on the top of",
)  # fmt: skip
_NEAR = 150 / 512  # of the image's side; the original calls 150 pixels near, in images of 512
_PEOPLE = ("girl", "boy", "man", "woman")
_NAMES = {
    "ship": "boat",
    "telivision": "tv",
    "goldfish": "fish",
    "painting": "picture",
}
_LEAST = 0.5  # a spatial score below it becomes 0
_SAME = 0.9  # overlap from which two boxes of one name are one object


@dataclass(frozen=True)
class Seen:
    """The boxes of one name, best first."""

    boxes: Boxes  # n 4
    scores: NDArray[np.float32]  # n


def detected_name(name: str, counting: bool = False) -> str:
    """The name under which the original's detector knows an object.

    Men, women, boys and girls are "person". Four more names differ where objects are counted.
    """
    if name in _PEOPLE:
        return "person"
    return _NAMES.get(name, name) if counting else name


def spatial_score(
    objects: Sequence[str], locality: str | None, seen: Mapping[str, Seen], side: int
) -> float:
    """A quarter of each object's probability, and half of the relation's score: 0, or [0.5, 1].

    ``objects`` are two names, or none where the original finds none in the prompt. ``side`` is the
    image's side in pixels.
    """
    best = [seen[detected_name(name)] for name in objects]
    there = [one for one in best if len(one.scores)]
    score = sum(0.25 * float(one.scores[0]) for one in there)
    if len(there) == 2 and locality in _JUDGED:
        first, second = (one.boxes[0] for one in there)
        score += 0.5 * relation(first, second, locality, _NEAR * side)
    return score if score >= _LEAST else 0.0


def numeracy_score(counts: Sequence[tuple[str, int]], seen: Mapping[str, Seen]) -> float:
    """Mean over the objects of 0.5 for being there and 0.5 for the exact number: [0, 1]."""
    total = 0.0
    for name, number in counts:
        found = len(distinct(seen[detected_name(name, counting=True)].boxes))
        total += (0.5 if found else 0.0) + (0.5 if found == number else 0.0)
    return total / len(counts)


def distinct(boxes: Boxes) -> Boxes:
    """The boxes without those that cover, or are covered by, an earlier kept one by over 0.9.

    Sides are counted in whole pixels, so each is longer by one.
    """
    kept: list[int] = []
    for place, box in enumerate(boxes):
        if not any(_is_same(box, boxes[other]) for other in kept):
            kept.append(place)
    return boxes[kept]


def _is_same(one: Boxes, other: Boxes) -> bool:
    shared = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]) + 1
    intersection = float(np.maximum(shared, 0).prod())
    areas = [float((box[2:] - box[:2] + 1).prod()) for box in (one, other)]
    return any(
        intersection / area > _SAME for area in (sum(areas) - intersection, areas[0], areas[1])
    )
