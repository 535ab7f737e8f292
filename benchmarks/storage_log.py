"""Measures the peak memory of a computation.

On a GPU the allocator knows it. On a CPU the storages of all tensors are followed. Memory that a
library uses inside one operation is not seen on a CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


def peak_bytes(call: Callable[[], object], held: Iterable[Tensor]) -> int:
    """Most bytes of tensors alive during ``call``; ``held`` are those alive before it."""
    known = list(held)
    if known[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated()
    with StorageLog(*known) as log:
        call()
    before = {_place(tensor): tensor.untyped_storage().nbytes() for tensor in known}
    return sum(before.values()) + log.peak()


class StorageLog(TorchDispatchMode):
    """Follows the storages that operations make: their sizes, and when each comes and goes."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._alive = {_place(tensor): -1 for tensor in known}
        self._events: list[tuple[int, int]] = []  # (number of a storage, bytes more or fewer)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _place(leaf) not in self._alive:
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        place, number, size = storage.data_ptr(), len(self._events), storage.nbytes()
        if size == 0:
            return
        self._alive[place] = number
        self._events.append((number, size))
        weakref.finalize(storage, self._let_go, place, number, size)

    def _let_go(self, place: int, number: int, size: int) -> None:
        del self._alive[place]
        self._events.append((number, -size))

    def peak(self, *left_behind: Tensor | None) -> int:
        """Most bytes alive at once, those of ``left_behind`` not counted."""
        excluded = {self._alive[_place(tensor)] for tensor in left_behind if tensor is not None}
        sizes = [size for number, size in self._events if number not in excluded]
        return max(accumulate(sizes, initial=0))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
