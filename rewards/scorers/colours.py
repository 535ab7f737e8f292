"""Names the colour of an object in a crop, as GenEval does with OpenAI's CLIP.

Sources: djghosh13/geneval af4902f2, ``color_classification``; clip_benchmark,
``zero_shot_classifier``.
Shape legend: B = crops, C = colours, D = features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from rewards.detection.boxes import Boxes
from rewards.detection.geneval_rules import COLOURS
from rewards.models.clip_score import ClipScorer


class ColourNames:
    """The colours of boxes of one class, by the nearest of ten mean texts."""

    def __init__(self, clip: ClipScorer) -> None:
        self._clip = clip
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def of(self, image: NDArray[np.uint8], name: str, boxes: Boxes) -> list[str]:
        """The name of each box's colour, one of ``COLOURS``."""
        if name not in self._texts:
            self._texts[name] = self._text_features(name)
        feature_BD = self._clip.image_features([crop(image, box) for box in boxes])
        return [COLOURS[place] for place in (feature_BD @ self._texts[name].T).argmax(-1).tolist()]

    def _text_features(self, name: str) -> Tensor:
        """A unit vector per colour, C D: the mean direction of its three texts."""
        rows = [
            self._clip.text_features(
                [
                    f"a photo of a {colour} {name}",
                    f"a photo of a {colour}-colored {name}",
                    f"a photo of a {colour} object",
                ]
            ).mean(0)
            for colour in COLOURS
        ]
        return normalize(torch.stack(rows), dim=-1)


def crop(image: NDArray[np.uint8], box: Sequence[float] | Boxes) -> NDArray[np.uint8]:
    """The part of an image, H W 3, in a box of corners, which PIL rounds."""
    left, top, right, bottom = (float(value) for value in box)
    return np.asarray(Image.fromarray(image).crop((left, top, right, bottom)))
