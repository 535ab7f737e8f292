"""Decodes rows of unequal length together, over one KV cache.

Padding stands in front of a row. It is not attended to and not counted in the row's positions, so a
row computes what it would compute alone.

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
from rollout.graphed_steps import GraphedSteps
from rollout.kv_cache import PreallocatedCache


class RowDecoder:
    """Reads B prompts at once, and then appends one token per row at each step."""

    def __init__(self, policy: JanusPolicy, prompts: Sequence[IntArray], num_steps: int) -> None:
        """``num_steps`` is the most calls of ``step`` that may follow."""
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
        # One additive mask, of which each step takes the first columns.
        unseen_BL = slot_L < self._padding_B.unsqueeze(1)
        self._mask_B11L = self._additive(unseen_BL)[:, None, None, :]
        self._graphed: GraphedSteps | None = None
        self._stepped = False

    def prefill(self) -> Tensor:
        """Read the prompts. Returns the hidden states that predict their next tokens, B D."""
        length = self._ids_BL.shape[1]
        slot_L = torch.arange(length, device=self._ids_BL.device)
        later_LL = slot_L.unsqueeze(0) > slot_L.unsqueeze(1)
        padding_BL = slot_L < self._padding_B.unsqueeze(1)
        # A padding slot attends to itself: attention over no slot at all would be NaN.
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
        """Append one token to every row. Returns the states that predict the next tokens, B D.

        They hold until the next step.
        """
        language_model, filled = self._policy.model.model.language_model, self._cache.filled
        # The first step is not graphed: libraries set themselves up in it, which no graph may hold.
        if embedding_BD.is_cuda and self._stepped:
            if self._graphed is None:
                self._graphed = GraphedSteps(
                    language_model, self._cache, self._mask_B11L, self._padding_B
                )
            return self._graphed.step(embedding_BD)
        self._stepped = True
        return decode_step(
            language_model,
            embedding_BD,
            self._mask_B11L[..., : filled + 1],
            (filled - self._padding_B).unsqueeze(1),
            self._cache.rows,
        )

    def select_rows(self, rows_B: Tensor) -> None:
        """Keep, drop or repeat rows: row b becomes a copy of what was row ``rows_B[b]``."""
        self._cache.select_rows(rows_B)
        self._padding_B = self._padding_B[rows_B]
        self._mask_B11L = self._mask_B11L[rows_B]
        self._graphed = None  # its graph has another number of rows

    def _additive(self, unseen: Tensor) -> Tensor:
        zeros = torch.zeros(unseen.shape, dtype=self._policy.dtype, device=unseen.device)
        return zeros.masked_fill_(unseen, -torch.inf)
