"""OpenAI's CLIP with the inputs that OpenAI's own program gives it.

The image processor of transformers crops a pixel beside it where the rest is 3 modulo 4, and its
tokenizer cuts long texts off. Sources: openai/CLIP, ``clip.py``; torchvision's transforms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from rewards.models.clip_score import CONTEXT, ClipScorer
from rewards.models.hps_inputs import MEAN_311, STD_311
from rewards.models.pretrained import load_model, reward_model_folder, weights_digest

_NEEDED = ("config.json", "tokenizer.json")
_ACTIVATION = "quick_gelu"


def clip_folder(model: str) -> Path:
    """The folder of a CLIP of OpenAI in the format of transformers.

    Raises ``UserError`` for another activation: the weights would load, and the scores be wrong.
    """
    folder = reward_model_folder(model, _NEEDED)
    config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    for name, tower in (("text", config.text_config), ("vision", config.vision_config)):
        if tower.hidden_act != _ACTIVATION:
            raise UserError(
                f"checkpoint {folder}: {name}_config.hidden_act is {tower.hidden_act!r}, and"
                f" OpenAI's models have {_ACTIVATION!r}"
            )
    return folder


def load_clip(model: str, device: torch.device, dtype: torch.dtype) -> tuple[ClipScorer, str]:
    """The model in ``clip_folder(model)``, and the digest of its weights."""
    folder = clip_folder(model)
    loaded = load_model(CLIPModel, folder, device, dtype)
    inputs = OpenAiClipInputs(folder, loaded.config.vision_config.image_size)
    return ClipScorer(loaded, inputs), weights_digest(weight_files(folder, pickled=True))


class OpenAiClipInputs:
    """Prepares texts with the vocabulary in ``folder``, and images of ``side`` pixels."""

    def __init__(self, folder: Path, side: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._side = side

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Ids and mask U T. A text that CLIP cannot read as a whole raises ``ValueError``."""
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        longest = int(tokens.attention_mask.sum(-1).max())
        if longest > CONTEXT:
            raise ValueError(f"a text of {longest} tokens: CLIP reads {CONTEXT}")
        return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def images(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """Pixels B 3 H W."""
        return torch.stack([pixels(image, self._side) for image in images])


def pixels(image: NDArray[np.uint8], side: int) -> Tensor:
    """Resize an image, H W 3, by its shortest side and keep its middle: 3 ``side`` ``side``."""
    height, width = image.shape[:2]
    shortest = min(height, width)
    size = int(side * width / shortest), int(side * height / shortest)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    # torchvision also uses Python's round, which rounds halves to even.
    left, top = (round((length - side) / 2) for length in size)
    cropped = np.asarray(resized.crop((left, top, left + side, top + side)))
    return (torch.tensor(cropped).permute(2, 0, 1).float() / 255 - MEAN_311) / STD_311
