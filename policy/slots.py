"""Where each tensor lies in the buckets of a push (``policy.weights``).

The driver passes slots on, so this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSlot:
    """The place of one tensor: ``count`` elements from ``offset`` on in bucket ``bucket``."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a torch dtype's name, e.g. "bfloat16"
    bucket: int
    offset: int
    count: int
