"""Lays trajectories out as padded tensors for teacher forcing.

Rows are padded on the right, behind all real tokens. Causal attention then needs no mask, and the
positions of a row count its own tokens from 0. A trajectory therefore has the same positions alone
and in any batch.

Shape legend: B = trajectories, L = positions, C = CoT tokens (longest row), N = image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policy.encoding import SpecialIds, unconditional_twin
from policy.types import IntArray, Trajectory


@dataclass(frozen=True)
class PhaseBatch:
    """One phase of B trajectories: the prompt's ids, then the tokens whose log-probs are wanted."""

    ids_BL: Tensor
    is_image_BL: Tensor  # which ids are image tokens
    source_BT: Tensor  # position whose hidden state predicts token t
    target_BT: Tensor  # the id of token t
    mask_BT: Tensor  # true where t is a token, false where it is padding

    def to(self, device: torch.device) -> PhaseBatch:
        return PhaseBatch(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class TrajectoryBatch:
    """Both phases of B trajectories, and the unconditional twin of the image phase."""

    cot: PhaseBatch
    image: PhaseBatch
    unconditional: PhaseBatch

    @property
    def mask_BT(self) -> Tensor:
        """True at tokens, in the learner's layout: CoT columns first, then image columns."""
        return torch.cat([self.cot.mask_BT, self.image.mask_BT], dim=1)

    def to(self, device: torch.device) -> TrajectoryBatch:
        return TrajectoryBatch(
            self.cot.to(device), self.image.to(device), self.unconditional.to(device)
        )


def collate(trajectories: Sequence[Trajectory], special: SpecialIds) -> TrajectoryBatch:
    """Lay trajectories out for teacher forcing. A CoT may be empty."""
    image_prompts = [t.image_prompt_ids for t in trajectories]
    image_ids = [t.image_ids for t in trajectories]
    return TrajectoryBatch(
        cot=_phase(
            [t.cot_prompt_ids for t in trajectories],
            [t.cot_ids for t in trajectories],
            special.pad,
            tokens_are_image=False,
        ),
        image=_phase(image_prompts, image_ids, special.pad, tokens_are_image=True),
        unconditional=_phase(
            [unconditional_twin(ids, special) for ids in image_prompts],
            image_ids,
            special.pad,
            tokens_are_image=True,
        ),
    )


def _phase(
    prompts: Sequence[IntArray],
    tokens: Sequence[IntArray],
    pad: int,
    tokens_are_image: bool,
) -> PhaseBatch:
    rows = len(prompts)
    # The last token is only predicted. The model does not read it, so it needs no position.
    length = max(len(p) + max(len(t) - 1, 0) for p, t in zip(prompts, tokens, strict=True))
    longest = max(len(t) for t in tokens)
    ids = np.full((rows, length), pad, dtype=np.int64)
    is_image = np.zeros((rows, length), dtype=bool)
    source = np.zeros((rows, longest), dtype=np.int64)
    target = np.zeros((rows, longest), dtype=np.int64)
    mask = np.zeros((rows, longest), dtype=bool)
    for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        start, count = len(prompt), len(token)
        ids[row, :start] = prompt
        ids[row, start : start + count - 1] = token[:-1]
        is_image[row, start : start + count - 1] = tokens_are_image
        source[row, :count] = np.arange(start - 1, start - 1 + count)
        target[row, :count] = token
        mask[row, :count] = True
    return PhaseBatch(*(torch.from_numpy(array) for array in (ids, is_image, source, target, mask)))
