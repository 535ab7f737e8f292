"""Computes GroundingDINO's reward from the boxes that were found, corrected and as published.

R1 to R7 are the faults of the public code that ``docs/rewards.md`` lists. The detector gives a box
as (centre x, centre y, width, height) in fractions of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policy.types import NumeracyItem, Prompt, SpatialInfo
from rewards.detection.asked_number import asks_for_one
from rewards.detection.boxes import LOCALITIES, Boxes, corners, relation, suppress

Variant = Literal["corrected", "published", "published-strict"]
VARIANTS: tuple[Variant, ...] = ("corrected", "published", "published-strict")

PRESENT = 0.2  # score of a spatial object, and of a numeracy object in the wrong number
POSITION = 0.5  # largest score of the relation of two objects
_NEAR_PIXELS, _NEAR_SIDE = 150, 512  # T2I-CompBench calls 150 pixels near, in images of 512
_UNKNOWN_AS_PUBLISHED = ("above", "on top of")


@dataclass(frozen=True)
class Found:
    """The boxes of all queries that are above the threshold for one name of the caption."""

    name: str
    boxes: Boxes  # n 4, centred
    scores: NDArray[np.float32]  # n


def missing_info(prompt: Prompt) -> str | None:
    """Why no image of this prompt can be judged: it lacks information that its task's score needs.

    None when nothing is missing.
    """
    if prompt.task_type == "spatial" and prompt.spatial_info is None:
        return f"prompt {prompt.id}: a spatial prompt without spatial_info"
    if prompt.task_type == "numeracy" and not prompt.numeracy_info:
        return f"prompt {prompt.id}: a numeracy prompt without numeracy_info"
    return None


def detection_score(found: Sequence[Found], prompt: Prompt, variant: Variant) -> float:
    """The reward of one image: spatial in [0, 0.9], any other task in [0, 1].

    ``found`` has an entry for each name of the variant's ``DetectionPrompt``, and at least one.
    Raises ``ValueError`` for a prompt that ``missing_info`` refuses, and for a relation that cannot
    be judged.
    """
    if reason := missing_info(prompt):
        raise ValueError(reason)
    if prompt.task_type == "spatial" and prompt.spatial_info is not None:
        if variant == "corrected":
            return _spatial(found, prompt.spatial_info, prompt.text)
        return _published_spatial(found, prompt.spatial_info, variant == "published-strict")
    if prompt.task_type == "numeracy":
        return _numeracy(found, prompt.numeracy_info, as_published=variant != "corrected")
    if variant == "corrected":
        return _objects(found, prompt.text)
    return _published_objects(found, prompt.nouns, variant == "published-strict")


def _objects(found: Sequence[Found], text: str) -> float:
    """The share of names that were found.

    Where one object was asked for, each extra one takes away half of the object's score.
    """
    values = []
    for one in found:
        count = len(_distinct(one).scores)
        extra = count - 1 if asks_for_one(one.name, text) else 0
        values.append(max(0.0, 1 - 0.5 * extra) if count else 0.0)
    return sum(values) / len(values)


def _spatial(found: Sequence[Found], info: SpatialInfo, text: str) -> float:
    """0.2 for each object, less for extra objects, and 0.5 for the relation if none is extra.

    A request that cannot be met fails every image of its prompt, not only images with both objects.
    """
    if info.obj1 == info.obj2:
        raise ValueError(f"spatial_info names {info.obj1!r} twice: the two cannot be told apart")
    if info.locality not in LOCALITIES:
        raise ValueError(f"spatial_info.locality {info.locality!r} is not known to this reward")
    value, as_asked = 0.0, True
    best = []
    for one in map(_distinct, found):
        count = len(one.scores)
        extra = max(0, count - 1) if asks_for_one(one.name, text) else 0
        value += max(0.0, PRESENT - 0.1 * extra) if count else 0.0
        as_asked = as_asked and count > 0 and extra == 0
        best.append(one.boxes[:1])
    if not as_asked:
        return value
    # R2: nearness is a fraction of the image's side, because box coordinates are fractions too.
    first, second = (corners(boxes)[0] for boxes in best)
    return value + POSITION * relation(first, second, info.locality, _NEAR_PIXELS / _NEAR_SIDE)


def _numeracy(found: Sequence[Found], items: Sequence[NumeracyItem], as_published: bool) -> float:
    """Mean over the items: 1 for the exact number of distinct boxes, 0.2 for any, 0 for none."""
    total = 0.0
    for item in items:
        one = _named(found, item.obj_name)
        # R3: the public code suppresses centred boxes as if their numbers were corners.
        boxes = one.boxes if as_published else corners(one.boxes)
        count = len(suppress(boxes, one.scores))
        total += 1.0 if count == item.num else PRESENT if count else 0.0
    return total / len(items)


def _published_objects(found: Sequence[Found], nouns: Sequence[str], strict: bool) -> float:
    """The share of nouns that were found, as published.

    R4, R6: ``strict`` counts all queries as objects, also those of a noun that occurs twice.
    """
    weight = 1 / len(nouns)
    value = 0.0
    for noun in nouns:
        count = len(_named(found, noun).scores)
        value += weight if count else 0.0
        if strict and count > 1:
            value -= min(weight * 0.5 * (count - 1), weight)
    return max(0.0, value)


def _published_spatial(found: Sequence[Found], info: SpatialInfo, strict: bool) -> float:
    """The spatial score as published.

    R1: two localities are not known. R2: 150 pixels are compared with fractions of the image.
    """
    objects = [_named(found, name) for name in (info.obj1, info.obj2)]
    value = 0.0
    for one in objects:
        count = len(one.scores)
        value += PRESENT if count else 0.0
        if strict and count > 1:
            value -= min(0.1 * (count - 1), PRESENT)
    if value < 2 * PRESENT:
        return max(0.0, value)
    if info.obj1 == info.obj2:
        return 0.0  # R7: the second object gets no box, and the error that follows becomes a 0
    first, second = (corners(one.boxes)[int(np.argmax(one.scores))] for one in objects)
    if info.locality not in LOCALITIES or info.locality in _UNKNOWN_AS_PUBLISHED:
        return value
    return value + POSITION * relation(first, second, info.locality, near=_NEAR_PIXELS)


def _named(found: Sequence[Found], name: str) -> Found:
    """The boxes of all entries of that name, as one entry."""
    same = [one for one in found if one.name == name]
    return Found(
        name,
        np.concatenate([one.boxes for one in same] or [np.zeros((0, 4), np.float32)]),
        np.concatenate([one.scores for one in same] or [np.zeros(0, np.float32)]),
    )


def _distinct(one: Found) -> Found:
    """The entry without duplicates, best first: of boxes that overlap, only the best is kept."""
    kept = suppress(corners(one.boxes), one.scores)
    return Found(one.name, one.boxes[kept], one.scores[kept])
