"""GroundingDINO, an open-vocabulary detector: are all objects there, where and as many as asked?

Shape legend: B = images, Q = queries, T = tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
)

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.detection.caption import (
    DetectionPrompt,
    Span,
    detection_prompt,
    published_detection_prompt,
)
from rewards.detection.detection_score import (
    VARIANTS,
    Found,
    Variant,
    detection_score,
    missing_info,
)
from rewards.models.grounding_dino_text import SEPARATORS, correct_text_positions
from rewards.models.pretrained import load_model, reward_model_folder, torch_device, weights_digest

MODEL = "IDEA-Research/grounding-dino-tiny"
NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")
THRESHOLD = 0.3  # a query whose probability for a name is above this has found it


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
        folder = reward_model_folder(model, NEEDED)
        self.digest = weights_digest(weight_files(folder, pickled=True))
        self._variant = variant
        self._model = load_model(GroundingDinoForObjectDetection, folder, torch_device(device))
        correct_text_positions(self._model)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        vocabulary = self._tokenizer.get_vocab()
        for token, number in SEPARATORS.items():
            if vocabulary.get(token) != number:
                raise UserError(
                    f"checkpoint {folder}: token {token!r} of its tokenizer is not {number}"
                )
        self._image_processor: Any = GroundingDinoImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )

    @classmethod
    def check(
        cls, model: str = MODEL, variant: Variant = "corrected", device: str = "auto"
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device)
        if variant not in VARIANTS:
            raise UserError(f"variant: {variant!r} is not one of {', '.join(VARIANTS)}")
        reward_model_folder(model, NEEDED)

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
            found = self._detect([images[i] for i in judged], [asked[i] for i in judged])
            for index, boxes in zip(judged, found, strict=True):
                results[index] = Score(detection_score(boxes, prompts[index], self._variant))
        return results

    @torch.inference_mode()
    def _detect(
        self, images: list[NDArray[np.uint8]], asked: list[DetectionPrompt]
    ) -> list[list[Found]]:
        """All boxes above the threshold, per image and name."""
        device = self._model.device
        tokens = self._tokenizer(
            [one.caption for one in asked], padding=True, return_tensors="pt"
        ).to(device)
        pixels = self._image_processor(images, return_tensors="pt").to(device)
        output = self._model(**tokens, **pixels)
        probability_BQT = output.logits.sigmoid().cpu()
        boxes_BQ4 = output.pred_boxes.cpu().numpy()
        return [
            [
                _found(name, self._tokens_of(tokens, row, spans), probability_BQT[row], boxes)
                for name, spans in zip(one.names, one.spans, strict=True)
            ]
            for row, (one, boxes) in enumerate(zip(asked, boxes_BQ4, strict=True))
        ]

    def _tokens_of(self, tokens: Any, row: int, spans: Sequence[Span]) -> list[int]:
        """Places of the tokens that hold the characters of the spans."""
        places: set[int] = set()
        for start, end in spans:
            of_letters = (tokens.char_to_token(row, at) for at in range(start, end))
            seen = [place for place in of_letters if place is not None]  # an accent has no token
            if not seen:
                raise ValueError(f"the detector's tokenizer has no token for {spans}")
            places.update(range(seen[0], seen[-1] + 1))
        if max(places) >= self._model.config.max_text_len:
            raise ValueError("the prompt's nouns are more than the detector can read at once")
        return sorted(places)


def _found(
    name: str, places: list[int], probability_QT: Tensor, boxes: NDArray[np.float32]
) -> Found:
    """The queries whose mean probability over a name's tokens is above the threshold."""
    # The 1e-6 is the public code's guard against a name without tokens, kept to the letter.
    score_Q = (probability_QT[:, places].sum(1) / (len(places) + 1e-6)).numpy()
    kept = score_Q > THRESHOLD
    return Found(name, boxes[kept], score_Q[kept])
