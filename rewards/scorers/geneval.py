"""GenEval's score of one image, 0 or 1, with GroundingDINO in place of its detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policy.errors import UserError
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.detection.geneval_rules import (
    COUNTING,
    Request,
    best_boxes,
    is_correct,
    parse_request,
)
from rewards.models.grounding_dino_detector import MODEL, GroundingDino
from rewards.models.pretrained import torch_device, torch_dtype
from rewards.scorers.colours import ColourNames
from rewards.scorers.one_by_one import Located, locate
from rewards.scorers.openai_clip import clip_folder, load_clip

CLIP = "openai/clip-vit-large-patch14"


class GenEvalReward:
    """1 if the image holds what the prompt asks for by GenEval's rules, else 0.

    ``prompt.evaluation`` is a row of GenEval's ``evaluation_metadata.jsonl``: ``tag``, ``include``
    and, for some, ``exclude``; without a valid row the image gets a failure.
    Options: ``model``, folder or Hub id of the detector (``IDEA-Research/grounding-dino-tiny``);
    ``clip``, folder or Hub id of the CLIP that names colours (``openai/clip-vit-large-patch14``);
    ``threshold`` (0.3) and ``counting_threshold`` (0.9), which the probability of a box must be
    above, the second for prompts of the tag ``counting``. Both are GenEval's, and were chosen for
    its own detector: state others beside the result. ``device`` (``auto``) and ``dtype`` of CLIP's
    weights (``float32``).
    """

    not_comparable = (
        "objects are found by GroundingDINO, one class at a time; GenEval's detector is mmdet's"
        " Mask2Former, whose masks also cut the objects out before their colour is named"
    )
    locations = ("model", "clip")

    def __init__(
        self,
        model: str = MODEL,
        clip: str = CLIP,
        threshold: float = 0.3,
        counting_threshold: float = 0.9,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.check(model, clip, threshold, counting_threshold, device, dtype)
        self._detector = GroundingDino(model, device)
        scorer, digest = load_clip(clip, torch_device(device), torch_dtype(dtype))
        self._colours = ColourNames(scorer)
        self._threshold, self._counting_threshold = threshold, counting_threshold
        self.digest = self._detector.digest + digest

    @classmethod
    def check(
        cls,
        model: str = MODEL,
        clip: str = CLIP,
        threshold: float = 0.3,
        counting_threshold: float = 0.9,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_dtype(dtype)
        for name, value in (("threshold", threshold), ("counting_threshold", counting_threshold)):
            if not 0 <= value < 1:
                raise UserError(f"{name}: {value} is not at least 0 and below 1")
        GroundingDino.check(model, device)
        clip_folder(clip)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """0 or 1 for each image, or the reason why its prompt cannot be judged."""
        requests = [_request(prompt) for prompt in prompts]
        names = [one.names if isinstance(one, Request) else () for one in requests]
        lowest = min(self._threshold, self._counting_threshold)
        located = locate(self._detector, images, names, lowest)
        return [
            self._judged(image, request, boxes) if isinstance(request, Request) else request
            for image, request, boxes in zip(images, requests, located, strict=True)
        ]

    def _judged(self, image: NDArray[np.uint8], request: Request, located: Located) -> Score:
        threshold = self._counting_threshold if request.tag == COUNTING else self._threshold
        found = {name: best_boxes(*one, threshold) for name, one in located.items()}
        correct = is_correct(
            request, found, lambda name, boxes: self._colours.of(image, name, boxes)
        )
        return Score(float(correct))


def _request(prompt: Prompt) -> Request | RewardFailure:
    try:
        return parse_request(prompt.evaluation or {})
    except ValueError as error:
        return RewardFailure(f"prompt {prompt.id}: its evaluation is no row of GenEval: {error}")
