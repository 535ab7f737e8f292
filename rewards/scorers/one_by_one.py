"""Finds objects with GroundingDINO, each by a caption of its own name, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.detection.boxes import Boxes, corners
from rewards.detection.caption import DetectionPrompt
from rewards.models.grounding_dino_detector import GroundingDino

Located = dict[str, tuple[Boxes, NDArray[np.float32]]]


def locate(
    detector: GroundingDino,
    images: Sequence[NDArray[np.uint8]],
    names: Sequence[Sequence[str]],
    threshold: float,
) -> list[Located]:
    """Corners n 4 in pixels, inside the image, and probabilities n, per image and name.

    In one caption, names would change each other's boxes.
    """
    pairs = [(image, name) for image, some in enumerate(names) for name in some]
    located: list[Located] = [{} for _ in images]
    for start in range(0, len(pairs), len(images)):
        batch = pairs[start : start + len(images)]
        found = detector.detect(
            [images[image] for image, _ in batch], [_caption(name) for _, name in batch], threshold
        )
        for (image, name), (one,) in zip(batch, found, strict=True):
            height, width = images[image].shape[:2]
            size = np.array([width, height] * 2, np.float32)
            boxes = corners(one.boxes) * size
            located[image][name] = boxes.clip(0, size), one.scores
    return located


def _caption(name: str) -> DetectionPrompt:
    return DetectionPrompt(f"{name}.", (name,), (((0, len(name)),),))
