"""Rows of unequal length decoded in step over one KV cache.

Padding lies in front of a row and is neither attended to nor counted in its positions, so a row
computes what it would compute alone.

Shape legend: B = rows, L = positions, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policy.janus import JanusPolicy
from policy.types import IntArray
from rollout.decode_step import decode_step
from rollout.kv_cache import PreallocatedCache


class RowDecoder:
    """B prompts, read at once, and then one more token per row and step."""

    def __init__(self, policy: JanusPolicy, prompts: Sequence[IntArray], num_steps: int) -> None:
        """``num_steps`` bounds the later calls of ``step``."""
        self._policy = policy
        longest = max(map(len, prompts))
        device = policy.device
        num_layers = len(policy.model.model.language_model.layers)
        self._cache = PreallocatedCache(num_layers, longest + num_steps)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[longest - len(prompt) :] = prompt
        self._ids_BL = torch.from_numpy(ids).to(device)
        self._padding_B = torch.tensor([longest - len(p) for p in prompts], device=device)
        slot_L = torch.arange(longest + num_steps, device=device)
        # Additive and ready made, for all steps.
        unseen_BL = slot_L < self._padding_B.unsqueeze(1)
        self._mask_B11L = self._additive(unseen_BL)[:, None, None, :]
        self._filled = longest

    def prefill(self) -> Tensor:
        """Read the prompts; the hidden states that predict their next tokens, B D."""
        length = self._ids_BL.shape[1]
        slot_L = torch.arange(length, device=self._ids_BL.device)
        later_LL = slot_L.unsqueeze(0) > slot_L.unsqueeze(1)
        padding_BL = slot_L < self._padding_B.unsqueeze(1)
        # A padding slot sees itself: attention over nothing at all is not a number.
        itself_LL = torch.eye(length, dtype=torch.bool, device=slot_L.device)
        unseen_BLL = later_LL | (padding_BL.unsqueeze(1) & ~itself_LL)
        hidden_BLD = self._policy.hidden_states(
            self._policy.embed_text(self._ids_BL),
            self._additive(unseen_BLL).unsqueeze(1),
            (slot_L - self._padding_B.unsqueeze(1)).clamp(min=0),
            self._cache,
        )
        return hidden_BLD[:, -1]

    def step(self, embedding_BD: Tensor) -> Tensor:
        """Append one token to every row; the hidden states that predict the next ones, B D."""
        position_B1 = (self._filled - self._padding_B).unsqueeze(1)
        self._filled += 1
        return decode_step(
            self._policy.model.model.language_model,
            embedding_BD,
            self._mask_B11L[..., : self._filled],
            position_B1,
            self._cache,
        )

    def select_rows(self, rows_B: Tensor) -> None:
        """Keep, drop or repeat rows from here on: row b becomes what row ``rows_B[b]`` was."""
        self._cache.select_rows(rows_B)
        self._padding_B = self._padding_B[rows_B]
        self._mask_B11L = self._mask_B11L[rows_B]

    def _additive(self, unseen: Tensor) -> Tensor:
        zeros = torch.zeros(unseen.shape, dtype=self._policy.dtype, device=unseen.device)
        return zeros.masked_fill_(unseen, -torch.inf)
