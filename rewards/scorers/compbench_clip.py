"""CLIPScore of T2I-CompBench, for prompts of actions (non-spatial) and, as one of three, complex.

Source: T2I-CompBench 1b709499, ``CLIPScore_eval/CLIP_similarity.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardResult
from rewards.models.pretrained import torch_device, torch_dtype
from rewards.scorers.openai_clip import clip_folder, load_clip

MODEL = "openai/clip-vit-base-patch32"


class CompBenchClipReward:
    """Cosine of image and text, neither scaled nor cut off at 0: [-1, 1], in practice 0.2 to 0.4.

    The text is ``prompt.evaluation["clip_text"]`` if there is one (complex prompts are compared
    without their adjectives), else the prompt. A text of more than 77 tokens fails, as in the
    original. Options: ``model``, folder or Hub id (``openai/clip-vit-base-patch32``); ``device``
    (``auto``) and ``dtype`` of the weights (``float32``; the original takes half precision on a
    GPU).
    """

    locations = ("model",)

    def __init__(self, model: str = MODEL, device: str = "auto", dtype: str = "float32") -> None:
        self._scorer, self.digest = load_clip(model, torch_device(device), torch_dtype(dtype))

    @classmethod
    def check(cls, model: str = MODEL, device: str = "auto", dtype: str = "float32") -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        clip_folder(model)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The cosine of each image and its text."""
        texts = [(prompt.evaluation or {}).get("clip_text", prompt.text) for prompt in prompts]
        compared = [replace(p, text=text) for p, text in zip(prompts, texts, strict=True)]
        return self._scorer.score(images, compared)
