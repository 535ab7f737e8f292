"""HPS v2.1, the human preference score: a CLIP ViT-H/14 in open_clip's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPModel

from policy.checkpoint.hub import checkpoint_file
from policy.checkpoint.weight_files import read_tensors
from policy.errors import UserError
from policy.types import Prompt, RewardResult
from rewards.models.clip_score import ClipScorer
from rewards.models.hps_inputs import HpsInputs
from rewards.models.open_clip_weights import clip_tensors
from rewards.models.pretrained import (
    load_model,
    reward_model_folder,
    torch_device,
    torch_dtype,
    weights_digest,
)

MODEL = "xswu/HPSv2"
FILE = "HPS_v2.1_compressed.pt"
CLIP = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
NEEDED = ("config.json", "tokenizer.json")


class HpsReward:
    """Cosine of image and raw prompt, without the logit scale: in [-1, 1], about 0.2 to 0.33.

    Image and prompt are prepared as in hpsv2's public code (``rewards/models/hps_inputs.py``).
    Options: ``model``, the file ``HPS_v2.1_compressed.pt``, or folder or Hub id of a checkpoint
    that holds it; ``clip``, folder or Hub id of the same CLIP, from which only configuration and
    vocabulary are read; ``device`` (``auto``) and ``dtype`` of the weights (``float32``: half
    precision changes a score by about 1e-3, and scores differ by about 0.05).
    """

    def __init__(
        self, model: str = MODEL, clip: str = CLIP, device: str = "auto", dtype: str = "float32"
    ) -> None:
        file, folder = _files(model, clip)
        self.digest = weights_digest([file])
        try:
            tensors = clip_tensors(read_tensors([file]))
        except ValueError as error:
            raise UserError(f"checkpoint file {file}: {error}") from None
        config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
        loaded = load_model(
            CLIPModel,
            file,
            torch_device(device),
            torch_dtype(dtype),
            config=config,
            state_dict=tensors,
        )
        self._scorer = ClipScorer(loaded, HpsInputs(folder, config.vision_config.image_size))

    @classmethod
    def check(
        cls, model: str = MODEL, clip: str = CLIP, device: str = "auto", dtype: str = "float32"
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        _files(model, clip)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The score of each image."""
        return self._scorer.score(images, prompts)


def _files(model: str, clip: str) -> tuple[Path, Path]:
    return checkpoint_file(model, FILE), reward_model_folder(clip, NEEDED, weights=False)
