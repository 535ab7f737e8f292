"""CLIP scores: the cosine of an image's and its prompt's features, as in PickScore and HPS v2.1.

Shape legend: B = images, U = different prompts, D = features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from policy.checkpoint.weight_files import weight_files
from policy.resizing import by_shortest
from policy.types import Prompt, RewardResult, Score
from rewards.models.pretrained import (
    load_model,
    reward_model_folder,
    torch_device,
    torch_dtype,
    weights_digest,
)

CONFIG, PROCESSOR = ("config.json",), ("tokenizer.json", "preprocessor_config.json")
CONTEXT = 77  # most tokens of a CLIP text with its begin and end tokens; the rest is cut off


class ClipInputs(Protocol):
    """Prepares images and texts for a CLIP model."""

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        """The arguments of ``get_text_features`` for U texts."""

    def images(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """Pixels B 3 H W."""


class ProcessorInputs:
    """Prepares images and raw texts with the model's own processor, without any other change."""

    def __init__(self, processor: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(processor, local_files_only=True)
        self.image_processor: Any = CLIPImageProcessorPil.from_pretrained(
            processor, local_files_only=True
        )

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
        return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def images(self, images: list[NDArray[np.uint8]]) -> Tensor:
        processor = self.image_processor
        if shortest := processor.size.get("shortest_edge"):
            images = [by_shortest(image, shortest, processor.resample) for image in images]
        pixels: Tensor = processor(images, return_tensors="pt").pixel_values
        return pixels


class ClipScorer:
    """Compares images with raw prompts by a CLIP model. The cosine is always in float32."""

    def __init__(self, model: Any, inputs: ClipInputs, scale: float = 1.0) -> None:
        self.model, self.inputs, self.scale = model, inputs, scale

    @torch.inference_mode()
    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The scaled cosine of each image and its prompt.

        A prompt that several images share is encoded once.
        """
        texts = list(dict.fromkeys(prompt.text for prompt in prompts))
        text_UD, image_BD = self.text_features(texts), self.image_features(images)
        place = {text: index for index, text in enumerate(texts)}
        prompt_BD = text_UD[[place[prompt.text] for prompt in prompts]]
        return [Score(value) for value in ((image_BD * prompt_BD).sum(-1) * self.scale).tolist()]

    def text_features(self, texts: list[str]) -> Tensor:
        """Unit vectors U D."""
        tokens = {
            name: tensor.to(self.model.device) for name, tensor in self.inputs.texts(texts).items()
        }
        features = self.model.get_text_features(**tokens)
        return normalize(features.pooler_output.float(), dim=-1)

    def image_features(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Unit vectors B D."""
        pixels = self.inputs.images(list(images))
        features = self.model.get_image_features(
            pixel_values=pixels.to(self.model.device, self.model.dtype)
        )
        return normalize(features.pooler_output.float(), dim=-1)


class ClipScoreReward:
    """Cosine of image and raw prompt, times the model's logit scale if asked (PickScore).

    Options: ``model``, folder or Hub id of a ``CLIPModel`` of transformers, such as
    ``yuvalkirstain/PickScore_v1``; ``processor``, folder or Hub id of tokenizer and image
    preprocessing if ``model`` has none (PickScore: ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``);
    ``logit_scale``, whether the cosine is multiplied by it; ``device`` (``auto``) and ``dtype`` of
    the weights (``float32``). The cosine is in [-1, 1]. PickScore is a hundred times the cosine,
    in practice about 20.
    """

    locations = ("model",)

    def __init__(
        self,
        model: str,
        processor: str | None = None,
        logit_scale: bool = False,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.check(model, processor, logit_scale, device, dtype)
        folder = reward_model_folder(model, CONFIG)
        self.digest = weights_digest(weight_files(folder, pickled=True))
        loaded = load_model(CLIPModel, folder, torch_device(device), torch_dtype(dtype))
        scale = float(loaded.logit_scale.float().exp()) if logit_scale else 1.0
        described = reward_model_folder(processor or model, PROCESSOR, weights=False)
        self._scorer = ClipScorer(loaded, ProcessorInputs(described), scale)

    @classmethod
    def check(
        cls,
        model: str,
        processor: str | None = None,
        logit_scale: bool = False,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        reward_model_folder(model, CONFIG if processor else CONFIG + PROCESSOR)
        if processor:
            reward_model_folder(processor, PROCESSOR, weights=False)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The score of each image."""
        return self._scorer.score(images, prompts)
