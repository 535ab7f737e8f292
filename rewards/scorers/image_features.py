"""Image features, from which ``evaluation.diversity`` computes the Vendi score of many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BitImageProcessorPil, Dinov2Model

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from policy.resizing import by_shortest
from policy.text_files import read_json
from policy.types import Prompt, RewardResult, Score
from rewards.models.pretrained import (
    load_model,
    reward_model_folder,
    torch_device,
    weights_digest,
)
from rewards.scorers.openai_clip import clip_folder, load_clip

MODEL = "openai/clip-vit-large-patch14"
_DINO_NEEDED = ("config.json", "preprocessor_config.json")

ImageFeatures = Callable[[Sequence[NDArray[np.uint8]]], Tensor]


class ImageFeaturesReward:
    """The unit vector of each image as the parts ``f0``, ``f1`` and so on; the value is 1.

    It judges nothing: it is a reward so that reward workers compute it. Options: ``model``, folder
    or Hub id of a CLIP of OpenAI (``openai/clip-vit-large-patch14``), or of a DINOv2, whose class
    token is taken (``facebook/dinov2-large``); ``device`` (``auto``). The weights are float32.
    """

    locations = ("model",)

    def __init__(self, model: str = MODEL, device: str = "auto") -> None:
        folder, kind = _folder(model)
        load = _load_clip if kind == "clip" else _load_dino
        self._features, self.digest = load(folder, torch_device(device))

    @classmethod
    def check(cls, model: str = MODEL, device: str = "auto") -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device)
        _folder(model)

    @torch.inference_mode()
    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The features of each image."""
        return [
            Score(1.0, {f"f{place}": value for place, value in enumerate(row)})
            for row in self._features(images).tolist()
        ]


def _folder(model: str) -> tuple[Path, str]:
    folder = reward_model_folder(model, ("config.json",))
    kind = read_json(folder / "config.json").get("model_type")
    if kind == "clip":
        return clip_folder(model), kind
    if kind == "dinov2":
        return reward_model_folder(model, _DINO_NEEDED), kind
    raise UserError(f"checkpoint {folder}: model_type is {kind!r}, not 'clip' or 'dinov2'")


def _load_clip(folder: Path, device: torch.device) -> tuple[ImageFeatures, str]:
    scorer, digest = load_clip(str(folder), device, torch.float32)
    return scorer.image_features, digest


def _load_dino(folder: Path, device: torch.device) -> tuple[ImageFeatures, str]:
    model = load_model(Dinov2Model, folder, device)
    processor: Any = BitImageProcessorPil.from_pretrained(folder, local_files_only=True)

    def features(images: Sequence[NDArray[np.uint8]]) -> Tensor:
        small = [
            by_shortest(image, processor.size["shortest_edge"], processor.resample)
            for image in images
        ]
        pixels = processor(small, return_tensors="pt").pixel_values
        hidden = model(pixel_values=pixels.to(device)).last_hidden_state
        return normalize(hidden[:, 0], dim=-1)

    return features, weights_digest(weight_files(folder, pickled=True))
