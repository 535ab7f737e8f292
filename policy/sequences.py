"""Lays trajectories out as tensors for teacher forcing.

A sequence is what a model reads of a trajectory in one phase: the phase's prompt and the tokens
after it. The sequences of a batch make a tree (``policy.token_tree``). A trajectory has the same
positions alone and in any batch.

Shape legend: P = nodes of a tree, B = trajectories, T = tokens of a phase (longest row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policy.encoding import SpecialIds, unconditional_twin
from policy.token_tree import TokenSequence, TokenTree, token_tree
from policy.types import IntArray, Trajectory


@dataclass(frozen=True)
class PhaseBatch:
    """The tokens of one phase of B trajectories whose log-probs are wanted."""

    source_BT: Tensor  # the node whose hidden state predicts token t
    target_BT: Tensor  # the id of token t
    mask_BT: Tensor  # true where t is a token, false where it is padding

    def to(self, device: torch.device) -> PhaseBatch:
        return PhaseBatch(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class TrajectoryBatch:
    """Both phases of B trajectories, and the unconditional twin of the image phase."""

    tree: TokenTree  # the sequences of both phases
    cot: PhaseBatch
    image: PhaseBatch
    twin_tree: TokenTree  # the sequences of the twins
    unconditional: PhaseBatch

    @property
    def mask_BT(self) -> Tensor:
        """True at tokens, in the learner's layout: CoT columns first, then image columns."""
        return torch.cat([self.cot.mask_BT, self.image.mask_BT], dim=1)

    def to(self, device: torch.device) -> TrajectoryBatch:
        return TrajectoryBatch(*(part.to(device) for part in vars(self).values()))


def collate(trajectories: Sequence[Trajectory], special: SpecialIds) -> TrajectoryBatch:
    """Lay trajectories out for teacher forcing. A CoT may be empty."""
    cot_prompts = [t.cot_prompt_ids for t in trajectories]
    image_prompts = [t.image_prompt_ids for t in trajectories]
    twins = [unconditional_twin(ids, special) for ids in image_prompts]
    cots, images = [t.cot_ids for t in trajectories], [t.image_ids for t in trajectories]
    # The last token is only predicted. The model does not read it.
    tree = token_tree(
        [
            [
                TokenSequence(np.append(prompt, cot[:-1]), cot[:0])
                for prompt, cot in zip(cot_prompts, cots, strict=True)
            ],
            _image_sequences(image_prompts, images),
        ]
    )
    twin_tree = token_tree([_image_sequences(twins, images)])
    return TrajectoryBatch(
        tree=tree,
        cot=_phase(cot_prompts, cots, tree.phases[0].node_BL),
        image=_phase(image_prompts, images, tree.phases[1].node_BL),
        twin_tree=twin_tree,
        unconditional=_phase(twins, images, twin_tree.phases[0].node_BL),
    )


def _image_sequences(
    prompts: Sequence[IntArray], images: Sequence[IntArray]
) -> list[TokenSequence]:
    return [
        TokenSequence(prompt, image[:-1]) for prompt, image in zip(prompts, images, strict=True)
    ]


def _phase(prompts: Sequence[IntArray], tokens: Sequence[IntArray], node_BL: Tensor) -> PhaseBatch:
    rows, longest = len(prompts), max(map(len, tokens))
    source = torch.zeros(rows, longest, dtype=torch.int64)
    target, mask = torch.zeros_like(source), torch.zeros_like(source, dtype=torch.bool)
    for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        start, count = len(prompt), len(token)
        source[row, :count] = node_BL[row, start - 1 : start - 1 + count]
        target[row, :count] = torch.from_numpy(token.astype(np.int64))
        mask[row, :count] = True
    return PhaseBatch(source, target, mask)
