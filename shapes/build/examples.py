"""Makes the pretraining examples: a prompt, a chain of thought and an image, some of them wrong.

A share of the scenes has one error (``spoil``). From these the policy learns in pretraining to draw
well, but not always what the prompt asks for. RL is to correct that.

Shape legend: B = rows, L = positions, N = image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from policy.encoding import PromptEncoder
from policy.types import IntArray
from shapes.build.codes import looks_of
from shapes.scenes import describe_scene, sample_request, sample_scene, spoil


@dataclass(frozen=True)
class Example:
    """The token ids of one scene in both phases."""

    cot_prompt_ids: IntArray
    cot_ids: IntArray  # ends with EOS
    image_prompt_ids: IntArray
    looks: NDArray[np.int64]  # N; each use of the example adds new grain


@dataclass(frozen=True)
class Rows:
    """Rows for teacher forcing, padded on the right. ``predicted_BL`` marks tokens to learn."""

    ids_BL: Tensor
    is_image_BL: Tensor
    predicted_BL: Tensor


def make_example(encoder: PromptEncoder, noise: float, rng: Generator) -> Example:
    """An example of a random scene of seen kinds. With probability ``noise`` it has one error.

    In half of these examples the error is in both image and CoT, in the other half only in the
    image.
    """
    scene = sample_scene(sample_request(rng), rng)
    drawn = spoil(scene, rng) if rng.random() < noise else scene
    cot = describe_scene(drawn if rng.random() < 0.5 else scene)
    prompt = scene.request.prompt()
    cot_ids = encoder.tokenizer.encode(cot, add_special_tokens=False)
    return Example(
        cot_prompt_ids=encoder.cot_prompt_ids(prompt),
        cot_ids=np.array([*cot_ids, encoder.special.eos], np.int32),
        image_prompt_ids=encoder.image_prompt_ids(prompt, cot),
        looks=looks_of(drawn),
    )


def padded_rows(
    prompts: Sequence[IntArray], tokens: Sequence[IntArray], pad: int, tokens_are_image: bool
) -> Rows:
    """One row for each prompt: the prompt, followed by the tokens to learn."""
    length = max(len(p) + len(t) for p, t in zip(prompts, tokens, strict=True))
    ids = np.full((len(prompts), length), pad, np.int64)
    predicted = np.zeros(ids.shape, bool)
    for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        ids[row, : len(prompt)] = prompt
        ids[row, len(prompt) : len(prompt) + len(token)] = token
        predicted[row, len(prompt) : len(prompt) + len(token)] = True
    return Rows(
        torch.from_numpy(ids),
        torch.from_numpy(predicted & tokens_are_image),
        torch.from_numpy(predicted),
    )
