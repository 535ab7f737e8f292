"""GroundingDINO's reward: are all objects there, where and as many as asked?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policy.errors import UserError
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.detection.caption import detection_prompt, published_detection_prompt
from rewards.detection.detection_score import VARIANTS, Variant, detection_score, missing_info
from rewards.models.grounding_dino_detector import MODEL, GroundingDino


class GroundingDinoReward:
    """The detector's score by task type, see ``docs/rewards.md``: spatial [0, 0.9], others [0, 1].

    A prompt that names nothing gets 1, marked as not applicable. A prompt that lacks information
    its task needs gets a failure. Options: ``model``, folder or Hub id
    (``IDEA-Research/grounding-dino-tiny``); ``variant``, ``corrected`` (default), ``published`` or
    ``published-strict``; ``device`` (``auto``). The weights are always float32, because rounded
    weights change which queries the model selects.
    """

    def __init__(
        self, model: str = MODEL, variant: Variant = "corrected", device: str = "auto"
    ) -> None:
        self.check(model, variant, device)
        self._variant = variant
        self._detector = GroundingDino(model, device)
        self.digest = self._detector.digest

    @classmethod
    def check(
        cls, model: str = MODEL, variant: Variant = "corrected", device: str = "auto"
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        if variant not in VARIANTS:
            raise UserError(f"variant: {variant!r} is not one of {', '.join(VARIANTS)}")
        GroundingDino.check(model, device)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` per image, or the reason why its prompt cannot be judged."""
        prepare = detection_prompt if self._variant == "corrected" else published_detection_prompt
        asked = [prepare(prompt) for prompt in prompts]
        results: list[RewardResult] = [
            RewardFailure(reason) if reason else Score(1.0, applicable=False)
            for reason in map(missing_info, prompts)
        ]
        judged = [i for i, one in enumerate(asked) if one.names and isinstance(results[i], Score)]
        if judged:
            found = self._detector.detect([images[i] for i in judged], [asked[i] for i in judged])
            for index, boxes in zip(judged, found, strict=True):
                results[index] = Score(detection_score(boxes, prompts[index], self._variant))
        return results
