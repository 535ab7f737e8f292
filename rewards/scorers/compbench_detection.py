"""Spatial and numeracy scores of T2I-CompBench, with GroundingDINO in place of its detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.detection.unidet_rules import Seen, detected_name, numeracy_score, spatial_score
from rewards.models.grounding_dino_detector import MODEL, THRESHOLD, GroundingDino
from rewards.scorers.needed import listed_texts, needed
from rewards.scorers.one_by_one import Located, locate

NOT_COMPARABLE = (
    "objects are found by GroundingDINO, one name at a time; T2I-CompBench's detector is UniDet"
)


class _DetectorReward:
    """The detector that both scores share."""

    not_comparable = NOT_COMPARABLE
    locations = ("model",)

    def __init__(self, model: str = MODEL, device: str = "auto") -> None:
        self._detector = GroundingDino(model, device)
        self.digest = self._detector.digest

    @classmethod
    def check(cls, model: str = MODEL, device: str = "auto") -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        GroundingDino.check(model, device)

    def _seen(
        self, images: Sequence[NDArray[np.uint8]], names: Sequence[Sequence[str]]
    ) -> list[dict[str, Seen]]:
        """The boxes of each image's names."""
        unique = [tuple(dict.fromkeys(some)) for some in names]
        return [_sorted(one) for one in locate(self._detector, images, unique, THRESHOLD)]


class CompBenchSpatialReward(_DetectorReward):
    """A quarter of both objects' probability, and half of their relation: 0, or [0.5, 1].

    ``prompt.evaluation`` must have ``objects``, the two names (or none, which scores 0), and
    ``locality``, the relation or None. Options: ``model``, folder or Hub id of the detector
    (``IDEA-Research/grounding-dino-tiny``); ``device`` (``auto``).
    """

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The score of each image, or the reason why its prompt cannot be judged."""
        asked = [_spatial(prompt) for prompt in prompts]
        names = [
            [] if isinstance(one, RewardFailure) else [detected_name(name) for name in one[0]]
            for one in asked
        ]
        return [
            one
            if isinstance(one, RewardFailure)
            else Score(spatial_score(one[0], one[1], seen, max(image.shape[:2])))
            for one, seen, image in zip(asked, self._seen(images, names), images, strict=True)
        ]


class CompBenchNumeracyReward(_DetectorReward):
    """Mean over the objects of 0.5 for being there and 0.5 for the exact number: [0, 1].

    ``prompt.evaluation`` must have ``counts``, a list of names and numbers. Options: ``model``,
    folder or Hub id of the detector (``IDEA-Research/grounding-dino-tiny``); ``device`` (``auto``).
    """

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The score of each image, or the reason why its prompt cannot be judged."""
        asked = [_counts(prompt) for prompt in prompts]
        names = [
            []
            if isinstance(one, RewardFailure)
            else [detected_name(name, counting=True) for name, _ in one]
            for one in asked
        ]
        return [
            one if isinstance(one, RewardFailure) else Score(numeracy_score(one, seen))
            for one, seen in zip(asked, self._seen(images, names), strict=True)
        ]


def _spatial(prompt: Prompt) -> tuple[list[str], str | None] | RewardFailure:
    objects, locality = listed_texts(prompt, "objects"), needed(prompt, "locality")
    if isinstance(objects, RewardFailure):
        return objects
    if isinstance(locality, RewardFailure):
        return locality
    if len(objects) not in (0, 2):
        return RewardFailure(f"prompt {prompt.id}: its 'objects' are {len(objects)}, not two")
    return objects, locality


def _counts(prompt: Prompt) -> list[tuple[str, int]] | RewardFailure:
    counts: Any = needed(prompt, "counts")
    if isinstance(counts, RewardFailure):
        return counts
    try:
        pairs = [(name, number) for name, number in counts]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(isinstance(n, str) and isinstance(k, int) for n, k in pairs):
        return RewardFailure(f"prompt {prompt.id}: its 'counts' are no list of names and numbers")
    return pairs


def _sorted(located: Located) -> dict[str, Seen]:
    order = {name: np.argsort(-scores, kind="stable") for name, (_, scores) in located.items()}
    return {
        name: Seen(boxes[order[name]], scores[order[name]])
        for name, (boxes, scores) in located.items()
    }
