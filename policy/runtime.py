"""Process-wide settings that every process of the system needs before it computes.

They are set from inside the process, so that no launcher, test or notebook can forget them.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


def tune_process(threads: int = 1, deterministic: bool = False) -> None:
    """Keep freed memory in the process and bound its compute threads.

    glibc hands large tensors back to the kernel after every operation, and on virtual machines the
    page faults of the next one cost more than the arithmetic: small models run several times
    faster with the memory kept. More threads than idle cores are slower than one.
    """
    keep_freed_memory()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch  # after the environment, which OpenMP reads once

    torch.set_num_threads(threads)
    if deterministic:
        choose_deterministic_algorithms()


def choose_deterministic_algorithms() -> None:
    """Have torch compute the same bits twice where it can, and warn where it cannot.

    Before the process computes on a GPU: cuBLAS reads the environment when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks; does nothing on another C library."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 2_000_000_000)
    mallopt(_M_TRIM_THRESHOLD, 2_000_000_000)
    mallopt(_M_TOP_PAD, 200_000_000)


def release_cached_memory() -> None:
    """Give GPU memory that is free in this process back to the others on the GPU."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
