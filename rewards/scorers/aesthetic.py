"""LAION's aesthetic predictors: how much people liked images, from their CLIP features.

Sources: LAION-AI/aesthetic-predictor 6d122ada (version 1, the one that the paper cites);
christophschuhmann/improved-aesthetic-predictor 6934dd81 (version 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from policy.checkpoint.weight_files import read_tensors
from policy.errors import UserError
from policy.types import Prompt, RewardResult, Score
from rewards.models.pretrained import torch_device, torch_dtype, weights_digest
from rewards.scorers.openai_clip import clip_folder, load_clip

MODEL = "openai/clip-vit-large-patch14"
# The linear maps of each version, in order. Version 2 has dropout between them and no activation.
_VERSIONS = (("",), tuple(f"layers.{number}." for number in (0, 2, 4, 6, 7)))
_PARTS = ("weight", "bias")


class AestheticReward:
    """The predicted rating of the image alone, about 1 to 10; the prompt is not read.

    Options: ``head``, the file of the predictor, ``sa_0_4_vit_l_14_linear.pth`` (version 1) or
    ``sac+logos+ava1-l14-linearMSE.pth`` (version 2), told apart by their tensors; ``model``, folder
    or Hub id of the CLIP that it was trained with (``openai/clip-vit-large-patch14``); ``device``
    (``auto``) and ``dtype`` of CLIP's weights (``float32``). The head is always float32.
    """

    locations = ("model", "head")

    def __init__(
        self, head: str, model: str = MODEL, device: str = "auto", dtype: str = "float32"
    ) -> None:
        file, place = _head_file(head), torch_device(device)
        maps = linear_maps(read_tensors([file]), file)
        self._clip, digest = load_clip(model, place, torch_dtype(dtype))
        width, wanted = self._clip.model.config.projection_dim, maps[0][0].shape[1]
        if width != wanted:
            raise UserError(f"head {file}: it reads {wanted} features, and the CLIP has {width}")
        self._maps = [(weight.float().to(place), bias.float().to(place)) for weight, bias in maps]
        self.digest = digest + weights_digest([file])

    @classmethod
    def check(
        cls, head: str, model: str = MODEL, device: str = "auto", dtype: str = "float32"
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        _head_file(head), clip_folder(model)

    @torch.inference_mode()
    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The rating of each image."""
        rating_B = rating(self._clip.image_features(images), self._maps)
        return [Score(value) for value in rating_B.tolist()]


def rating(feature_BD: Tensor, maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The ratings B of unit vectors. A vector of zeros gets the head's own constant."""
    for weight, bias in maps:
        feature_BD = linear(feature_BD, weight, bias)
    return feature_BD[:, 0]


def linear_maps(tensors: Mapping[str, Tensor], file: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each map. Raises ``UserError`` for tensors of neither version."""
    for prefixes in _VERSIONS:
        if tensors.keys() == {f"{prefix}{part}" for prefix in prefixes for part in _PARTS}:
            return [(tensors[f"{prefix}weight"], tensors[f"{prefix}bias"]) for prefix in prefixes]
    raise UserError(f"head {file} is no head of LAION's predictors: {', '.join(sorted(tensors))}")


def _head_file(head: str) -> Path:
    if not Path(head).is_file():
        raise UserError(f"head {head} does not exist")
    return Path(head)
