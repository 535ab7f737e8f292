"""BLIP-2: does the caption match the image, by its matching head or by its features?

Source: LAVIS 506965b9, ``models/blip2_models/blip2_image_text_matching.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, Blip2ForImageTextRetrieval, BlipImageProcessorPil

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from policy.resizing import resized
from policy.types import Prompt, RewardResult, Score
from rewards.models.pretrained import (
    load_model,
    reward_model_folder,
    torch_device,
    weights_digest,
)
from rewards.scorers.blip_text import caption

MODEL = "Salesforce/blip2-itm-vit-g"
NEEDED = ("config.json", "tokenizer.json")
HEADS = ("itm", "itc")
_MOST_TOKENS = 32


class Blip2Reward:
    """P(match) in [0, 1] of the matching head (``itm``), or the cosine of the features (``itc``).

    Options: ``model``, folder or Hub id (``Salesforce/blip2-itm-vit-g``); ``head``, ``itm``
    (default) or ``itc``; ``device`` (``auto``). The weights are float32. (LAVIS computes the image
    tower in half precision on a GPU.)
    """

    locations = ("model",)

    def __init__(
        self, model: str = MODEL, head: Literal["itm", "itc"] = "itm", device: str = "auto"
    ) -> None:
        self.check(model, head, device)
        folder = reward_model_folder(model, NEEDED)
        self.digest = weights_digest(weight_files(folder, pickled=True))
        self._head = head
        self._model = load_model(Blip2ForImageTextRetrieval, folder, torch_device(device))
        # With this number, transformers takes the first tokens of a text for places of the image.
        self._model.config.image_token_index = None
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        side = self._model.config.vision_config.image_size
        self._image_processor: Any = BlipImageProcessorPil(size={"height": side, "width": side})
        self._size = side, side

    @classmethod
    def check(
        cls, model: str = MODEL, head: Literal["itm", "itc"] = "itm", device: str = "auto"
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device)
        if head not in HEADS:
            raise UserError(f"head: {head!r} is not one of {', '.join(HEADS)}")
        reward_model_folder(model, NEEDED)

    @torch.inference_mode()
    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The score of each image and its prompt."""
        device, matching = self._model.device, self._head == "itm"
        pixels = self._image_processor(
            [resized(image, self._size) for image in images], return_tensors="pt"
        ).pixel_values
        tokens = self._tokenizer(
            [caption(prompt.text) for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=_MOST_TOKENS,
            return_tensors="pt",
        )
        logits = self._model(
            pixel_values=pixels.to(device),
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            use_image_text_matching_head=matching,
        ).logits_per_image
        # The matching head judges each image with its own text. The cosines are of all images with
        # all texts.
        values = logits.softmax(-1)[:, 1] if matching else logits.diagonal()
        return [Score(value) for value in values.tolist()]
