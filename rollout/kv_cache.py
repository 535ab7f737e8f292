"""A KV cache that is allocated once and written in place.

transformers' ``DynamicCache`` copies the whole past for every token, and its ``StaticCache``
attends over slots that hold nothing yet. Here a layer returns views of its filled part.

Shape legend: R = rows, H = key-value heads, L = slots, D = head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer, R H L D, of which the first ``filled`` slots hold tokens."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self._allocate(key_states), self._allocate(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new states. Returns views of all filled slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return self.capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def select_rows(self, rows_R: Tensor) -> None:
        """Keep, drop or repeat rows: row r becomes a copy of what was row ``rows_R[r]``."""
        for name in ("keys", "values"):
            filled = getattr(self, name)[:, :, : self.filled].index_select(0, rows_R)
            moved = self._allocate(filled)
            moved[:, :, : self.filled] = filled
            setattr(self, name, moved)

    def _allocate(self, like: Tensor) -> Tensor:
        rows, heads, _, size = like.shape
        return like.new_empty(rows, heads, self.capacity, size)


class PreallocatedCache(Cache):
    """One ``PreallocatedLayer`` per layer of the language model."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.rows = [PreallocatedLayer(capacity) for _ in range(num_layers)]
        super().__init__(layers=list(self.rows))

    @property
    def filled(self) -> int:
        """How many slots hold tokens, in every layer."""
        return self.rows[0].filled

    @filled.setter
    def filled(self, count: int) -> None:
        for layer in self.rows:
            layer.filled = count

    def select_rows(self, rows_R: Tensor) -> None:
        """Apply ``PreallocatedLayer.select_rows`` to every layer."""
        for layer in self.rows:
            layer.select_rows(rows_R)
