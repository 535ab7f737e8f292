"""GroundingDINO, an open-vocabulary detector: the boxes of named objects in images.

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
from rewards.detection.caption import DetectionPrompt, Span
from rewards.detection.detection_score import Found
from rewards.models.grounding_dino_text import SEPARATORS, correct_text_positions
from rewards.models.pretrained import load_model, reward_model_folder, torch_device, weights_digest

MODEL = "IDEA-Research/grounding-dino-tiny"
NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")
THRESHOLD = 0.3  # a query whose probability for a name is above this has found it


class GroundingDino:
    """The detector of a checkpoint, a folder or Hub id.

    The weights are always float32, because rounded weights change which queries the model selects.
    """

    def __init__(self, model: str, device: str) -> None:
        folder = reward_model_folder(model, NEEDED)
        self.digest = weights_digest(weight_files(folder, pickled=True))
        self.model = load_model(GroundingDinoForObjectDetection, folder, torch_device(device))
        correct_text_positions(self.model)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        vocabulary = self.tokenizer.get_vocab()
        for token, number in SEPARATORS.items():
            if vocabulary.get(token) != number:
                raise UserError(
                    f"checkpoint {folder}: token {token!r} of its tokenizer is not {number}"
                )
        self.image_processor: Any = GroundingDinoImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )

    @staticmethod
    def check(model: str, device: str) -> None:
        """Raise ``UserError`` for a checkpoint or a device that cannot be had."""
        torch_device(device)
        reward_model_folder(model, NEEDED)

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        asked: Sequence[DetectionPrompt],
        threshold: float = THRESHOLD,
    ) -> list[list[Found]]:
        """All boxes whose probability is above the threshold, per image and name of its caption."""
        device = self.model.device
        tokens = self.tokenizer(
            [one.caption for one in asked], padding=True, return_tensors="pt"
        ).to(device)
        pixels = self.image_processor(list(images), return_tensors="pt").to(device)
        output = self.model(**tokens, **pixels)
        probability_BQT = output.logits.sigmoid().cpu()
        boxes_BQ4 = output.pred_boxes.cpu().numpy()
        return [
            [
                _found(
                    name,
                    self._tokens_of(tokens, row, spans),
                    probability_BQT[row],
                    boxes,
                    threshold,
                )
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
        if max(places) >= self.model.config.max_text_len:
            raise ValueError("the prompt's nouns are more than the detector can read at once")
        return sorted(places)


def _found(
    name: str,
    places: list[int],
    probability_QT: Tensor,
    boxes: NDArray[np.float32],
    threshold: float,
) -> Found:
    """The queries whose mean probability over a name's tokens is above the threshold."""
    # The 1e-6 is the public code's guard against a name without tokens, kept to the letter.
    score_Q = (probability_QT[:, places].sum(1) / (len(places) + 1e-6)).numpy()
    kept = score_Q > threshold
    return Found(name, boxes[kept], score_Q[kept])
