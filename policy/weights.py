"""Weights as they are sent from the learner to the workers: tensors packed into flat buckets.

Only trained tensors are sent. The buckets are NumPy arrays, because those cross Ray's object store
without copies. NumPy has no bfloat16, so such weights are sent as int16 with the same bits.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BYTES = 128 * 2**20


@dataclass(frozen=True)
class TensorSlot:
    """The place of one tensor: ``count`` elements from ``offset`` on in bucket ``bucket``."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a torch dtype's name, e.g. "bfloat16"
    bucket: int
    offset: int
    count: int


@dataclass(frozen=True)
class WeightBuckets:
    """The trained tensors of one weight version."""

    slots: tuple[TensorSlot, ...]
    buckets: tuple[NDArray[np.generic], ...]


def pack(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES) -> WeightBuckets:
    """Copy named tensors into flat buckets. A bucket has one dtype and at most ``bucket_bytes``.

    A tensor that is larger than ``bucket_bytes`` gets a bucket of its own. An empty tensor raises
    ``ValueError``, because it is a sharded parameter that was not gathered from the learner ranks.
    """
    slots: list[TensorSlot] = []
    parts: list[list[NDArray[np.generic]]] = []
    filled: dict[str, tuple[int, int]] = {}  # dtype -> (open bucket, elements in it)
    for name, tensor in tensors:
        if tensor.numel() == 0:
            raise ValueError(f"weight {name} is empty: it was not gathered from its shards")
        flat = _to_numpy(tensor)
        dtype = _dtype_name(tensor)
        bucket, offset = filled.get(dtype, (-1, 0))
        if bucket < 0 or (offset + flat.size) * flat.itemsize > bucket_bytes:
            parts.append([])
            bucket, offset = len(parts) - 1, 0
        parts[bucket].append(flat)
        filled[dtype] = (bucket, offset + flat.size)
        slots.append(TensorSlot(name, tuple(tensor.shape), dtype, bucket, offset, flat.size))
    return WeightBuckets(tuple(slots), tuple(np.concatenate(part) for part in parts))


def unpack(weights: WeightBuckets) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket. A bucket stays in memory as long as its views."""
    for slot in weights.slots:
        flat = weights.buckets[slot.bucket][slot.offset : slot.offset + slot.count]
        yield slot.name, _to_torch(flat, slot.dtype).view(slot.shape)


def checksum(weights: WeightBuckets) -> str:
    """A digest of names, shapes, dtypes and all bytes, as a hex string of 32 digits."""
    digest = hashlib.blake2b(digest_size=16)
    for slot in weights.slots:
        digest.update(f"{slot.name}{slot.shape}{slot.dtype}".encode())
    for bucket in weights.buckets:
        digest.update(np.ascontiguousarray(bucket).view(np.uint8).data)
    return digest.hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of named tensors as a hex string of 32 digits. It copies one tensor at a time."""
    digest = hashlib.blake2b(digest_size=16)
    for item in tensors:
        digest.update(checksum(pack([item])).encode())
    return digest.hexdigest()


def check_fit(parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> None:
    """Raise ``ValueError`` that names a missing or unknown tensor, or one of wrong shape or dtype.

    A wrong dtype is an error because every receiver has the learner's dtype and converts nothing.
    """
    targets = dict(parameters)
    sources = {slot.name: slot for slot in weights.slots}
    for name in targets.keys() ^ sources.keys():
        raise ValueError(f"weight {name} is {'missing' if name in targets else 'unknown'}")
    for name, tensor in targets.items():
        source, shape = sources[name], tuple(tensor.shape)
        if source.shape != shape:
            raise ValueError(f"weight {name} has shape {source.shape}, not {shape}")
        if source.dtype != (dtype := _dtype_name(tensor)):
            raise ValueError(f"weight {name} is {source.dtype}, not {dtype}")


@torch.no_grad()
def load_into(parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> None:
    """Copy the buckets into the parameters of the same names, shapes and dtypes.

    ``check_fit`` checks all of them before the first copy, so that a wrong push changes nothing.
    """
    targets = dict(parameters)
    check_fit(targets.items(), weights)
    for name, source in unpack(weights):
        targets[name].copy_(source)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _to_torch(flat: NDArray[np.generic], dtype: str) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that arrays of the object store are read-only. This view is only read.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(flat)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
