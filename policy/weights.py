"""Weights on the wire: the trained part as a few flat buckets with a manifest and a checksum.

NumPy buckets cross the object store without copies; bfloat16 travels as its int16 bits.
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
    """Where one tensor lies: ``count`` elements from ``offset`` of bucket ``bucket``."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a torch dtype's name, e.g. "bfloat16"
    bucket: int
    offset: int
    count: int


@dataclass(frozen=True)
class WeightBuckets:
    """One weight version's trained tensors."""

    slots: tuple[TensorSlot, ...]
    buckets: tuple[NDArray[np.generic], ...]


def pack(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES) -> WeightBuckets:
    """Copy named tensors into flat buckets of one dtype and at most ``bucket_bytes`` each.

    A tensor larger than a bucket gets one of its own. An empty tensor raises ``ValueError``: it is
    a parameter that a sharded learner forgot to gather.
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
    """Yield each tensor as a copy-free view; views keep the buckets alive while they are held."""
    for slot in weights.slots:
        flat = weights.buckets[slot.bucket][slot.offset : slot.offset + slot.count]
        yield slot.name, _to_torch(flat, slot.dtype).view(slot.shape)


def checksum(weights: WeightBuckets) -> str:
    """A digest over names, shapes, dtypes and every byte, as a short hex string."""
    digest = hashlib.blake2b(digest_size=16)
    for slot in weights.slots:
        digest.update(f"{slot.name}{slot.shape}{slot.dtype}".encode())
    for bucket in weights.buckets:
        digest.update(np.ascontiguousarray(bucket).view(np.uint8).data)
    return digest.hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of named tensors, one at a time in memory, as a short hex string."""
    digest = hashlib.blake2b(digest_size=16)
    for item in tensors:
        digest.update(checksum(pack([item])).encode())
    return digest.hexdigest()


def check_fit(parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> None:
    """Raise ``ValueError`` that names a missing, unknown or misshapen tensor, or one of another
    type: nothing is converted on arrival, as no receiver has another type than the learner."""
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
    """Copy the buckets into live parameters of the same names, shapes and types.

    Everything is checked before the first copy (``check_fit``), so that a wrong push changes
    nothing.
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
        # Object-store arrays are read-only, which torch warns about; this view is only read.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(flat)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
