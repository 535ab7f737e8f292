"""Process-wide settings of memory, threads and determinism that a process makes before it computes.

The process calls these functions itself, so no launcher, test or notebook can forget them.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

# For the environment of a process that copies weights; glibc reads it when the process starts.
# Copies of this size, that of the pieces in ``policy.weights``, are then written to memory that is
# not read first, which takes a third less time. By default glibc does so only for copies as large
# as most of the last cache, and a virtual machine may be told of far more cache than it has. It
# replaces a value that the user has set.
FAST_COPIES = {"GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=0x100000"}

# Where torch reads the settings of its GPU allocator. It looks for the old names after the first.
_ALLOCATOR_SETTINGS = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


def tune_process(threads: int = 1, deterministic: bool = False) -> None:
    """Keep freed memory in the process and limit its compute threads.

    By default glibc returns the memory of large tensors to the kernel after every operation. The
    next operation then causes page faults, which on virtual machines cost more than the arithmetic.
    Small models run several times faster when the memory is kept. A process with more threads than
    idle cores is slower than one with a single thread.
    """
    keep_freed_memory()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # OpenMP reads the variables set above once, when torch is imported. So torch is imported
    # only here.
    with quick_imports():
        import torch

    torch.set_num_threads(threads)
    if deterministic:
        choose_deterministic_algorithms()


def choose_deterministic_algorithms() -> None:
    """Make torch compute the same bits every time, and warn where it has no such algorithm.

    Call this before the process computes on a GPU, because cuBLAS reads the environment only when
    it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    # torch's switch does not know it: cuDNN's attention gives other bits at every call (measured on
    # an H200, one query a row with a mask).
    torch.backends.cuda.enable_cudnn_sdp(False)


def use_expandable_segments() -> None:
    """Have torch take GPU memory in pieces that can grow, unless the environment says otherwise.

    The trajectories of a step have other lengths than those of the step before. Without this, torch
    keeps blocks of sizes that no tensor has any more, and an update can fail beside free memory.
    Call this before torch is imported, and not in a process of vLLM, whose sleep has an allocator
    of its own.
    """
    if not any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        os.environ[_ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks. This does nothing with another C library."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 2_000_000_000)
    mallopt(_M_TRIM_THRESHOLD, 2_000_000_000)
    mallopt(_M_TOP_PAD, 200_000_000)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Python looks for no garbage while the context imports large libraries.

    Nearly all objects that torch and transformers make while they are imported stay. Python would
    look through them again and again, which takes about a fifth of the time of these imports.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def release_cached_memory() -> None:
    """Return this process's unused GPU memory, so that other processes on the GPU can use it."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
