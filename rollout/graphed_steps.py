"""Decode steps as CUDA graphs: a GPU is told once what a step does, and then repeats it.

A decode step launches some twenty small kernels a layer. To launch them takes Python many times
longer than it takes a GPU to run them. A graph is launched as a whole. In return its shapes and
addresses are fixed: attention reads a fixed number of slots, and the mask hides those that hold no
token yet. The number of the slot that is filled next lies on the GPU, where the graph itself counts
it up. When all slots of a graph are filled, another one is recorded that has more of them.

Shape legend: R = rows, H = heads, S = head size, D = hidden size, L = slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rollout.decode_step import decode_step
from rollout.kv_cache import PreallocatedCache, PreallocatedLayer

# A graph of more slots reads more slots that hold nothing yet. With fewer, more graphs are
# recorded, and to record one takes as long as a step without a graph.
SLOTS_PER_GRAPH = 192


class GraphedSteps:
    """Appends tokens to a cache that holds the prompts already, one token per row and step."""

    def __init__(
        self, language_model: Any, cache: PreallocatedCache, mask_R11L: Tensor, padding_R: Tensor
    ) -> None:
        """``mask_R11L`` hides the ``padding_R`` slots in front of each row; L is the capacity."""
        self._language_model = language_model
        self._cache = cache
        self._filled = self._end = cache.filled
        for layer in cache.rows:
            # Attention multiplies hidden values by 0, and 0 times what memory held before may be
            # NaN.
            layer.keys[:, :, self._filled :] = 0
            layer.values[:, :, self._filled :] = 0
        self._mask_R11L = mask_R11L.clone()
        self._mask_R11L[..., self._filled :] = -torch.inf
        self._slot_1 = torch.tensor([self._filled], device=padding_R.device)
        self._position_R1 = (self._filled - padding_R).unsqueeze(1)

    def step(self, embedding_RD: Tensor) -> Tensor:
        """See ``decode_step``. The next step overwrites the states that this one returns."""
        if self._filled == self._end:
            self._record(embedding_RD)
        self._embedding_RD.copy_(embedding_RD)
        self._repeat()
        self._filled += 1
        self._cache.filled = self._filled
        return self._hidden_RD

    def _record(self, embedding_RD: Tensor) -> None:
        self._end = min(self._filled + SLOTS_PER_GRAPH, self._mask_R11L.shape[-1])
        mask_R11L = self._mask_R11L[..., : self._end]
        layers = [FixedSlots(layer, self._slot_1, self._end) for layer in self._cache.rows]
        self._embedding_RD = torch.empty_like(embedding_RD)

        def step() -> None:
            mask_R11L.index_fill_(-1, self._slot_1, 0)
            self._hidden_RD = decode_step(
                self._language_model, self._embedding_RD, mask_R11L, self._position_R1, layers
            )
            self._slot_1.add_(1)
            self._position_R1.add_(1)

        self._repeat = recorded(step)


class FixedSlots:
    """The first ``length`` slots of a layer; ``slot_1`` says which one is filled next."""

    def __init__(self, layer: PreallocatedLayer, slot_1: Tensor, length: int) -> None:
        self._keys, self._values = layer.keys, layer.values
        self._slot_1, self._length = slot_1, length

    def update(self, key_RH1S: Tensor, value_RH1S: Tensor) -> tuple[Tensor, Tensor]:
        """Put the new states into the slot. Returns views of all ``length`` slots."""
        self._keys.index_copy_(2, self._slot_1, key_RH1S)
        self._values.index_copy_(2, self._slot_1, value_RH1S)
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """Record what ``step`` launches, without running it; returns a call that runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay
