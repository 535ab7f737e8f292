"""Measures time and memory of a call, on a GPU or a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median

import torch
from torch import Tensor

from benchmarks.storage_log import StorageLog
from benchmarks.timing import wall_clock

GB, MIB, GIB = 1e9, 2**20, 2**30


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds on the wall of one call, its work on the GPU included."""
    start = wall_clock()
    call()
    return wall_clock() - start


def median_seconds(call: Callable[[], object], most: int = 20, within_s: float = 3.0) -> float:
    """The median of up to ``most`` calls after one that does not count, but of one at least."""
    call()  # kernels are chosen, memory is taken
    taken: list[float] = []
    end = time.monotonic() + within_s
    while not taken or (len(taken) < most and time.monotonic() < end):
        taken.append(seconds_of(call))
    return median(taken)


def extra_bytes(call: Callable[[], object], device: str) -> int:
    """Most bytes alive during a call beyond those before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with StorageLog() as log:
        call()
    return log.peak()


def size_in_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes a second of a copy within the device's memory, read and written ones counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), within_s=0.5)
