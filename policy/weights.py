"""Weights as they are sent from the learner to the workers: tensors in flat buckets.

Only trained tensors are sent. The buckets are NumPy arrays, because workers read those in Ray's
object store without a copy. NumPy has no bfloat16, so such weights are sent as int16 with the same
bits.

A push copies a large tensor twice: into the object store, and from there into the parameters of
each worker. Threads compute the digests of the buckets during these copies.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

Bucket = NDArray[np.generic]

# A tensor of this size or more is a bucket of its own. Smaller ones share buckets of this size,
# because each object costs Ray about a millisecond.
BUCKET_BYTES = 32 * 2**20
# One thread digests about as fast as one thread copies. The second one is for a machine whose
# copies use several threads.
_DIGEST_THREADS = 2


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
    buckets: Sequence[Bucket]


class OutgoingWeights:
    """The buckets of named tensors, one after the other, to be read once.

    A bucket may be a view of a tensor: it is valid until the next one is asked for. ``slots`` and
    ``checksum`` are complete when all buckets have been read.
    """

    def __init__(
        self, tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        """A bucket has one dtype. Tensors smaller than ``bucket_bytes`` share buckets."""
        self.slots: tuple[TensorSlot, ...] = ()
        self.checksum = ""
        self._tensors = tensors
        self._bucket_bytes = bucket_bytes

    def __iter__(self) -> Iterator[Bucket]:
        """Raises ``ValueError`` for an empty tensor: one that was not gathered from its shards."""
        slots: list[TensorSlot] = []
        digests: list[bytes] = []
        with ThreadPoolExecutor(1) as digester:
            for inside, bucket in _filled(self._tensors, self._bucket_bytes):
                slots += [replace(slot, bucket=len(digests)) for slot in inside]
                digest = digester.submit(_digest, bucket)
                yield bucket
                digests.append(digest.result())
        self.slots = tuple(slots)
        self.checksum = _combined(self.slots, digests)


@dataclass
class _Shared:
    """A bucket that still has room: ``filled`` elements of ``data`` are in use."""

    data: Bucket
    filled: int = 0
    slots: list[TensorSlot] = field(default_factory=list)

    def add(self, slot: TensorSlot, flat: Bucket) -> None:
        self.slots.append(replace(slot, offset=self.filled))
        self.data[self.filled : self.filled + flat.size] = flat
        self.filled += flat.size


def _filled(
    tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int
) -> Iterator[tuple[list[TensorSlot], Bucket]]:
    """Each full bucket with its slots, which do not know the bucket's number yet."""
    shared: dict[str, _Shared] = {}  # by dtype
    for name, tensor in tensors:
        if tensor.numel() == 0:
            raise ValueError(f"weight {name} is empty: it was not gathered from its shards")
        flat, dtype = _to_numpy(tensor), _dtype_name(tensor)
        slot = TensorSlot(name, tuple(tensor.shape), dtype, 0, 0, flat.size)
        if flat.nbytes >= bucket_bytes:
            yield [slot], flat
            continue
        bucket = shared.get(dtype)
        if bucket is not None and bucket.filled + flat.size > bucket.data.size:
            yield bucket.slots, bucket.data[: bucket.filled]
            bucket = None
        if bucket is None:
            bucket = shared[dtype] = _Shared(np.empty(bucket_bytes // flat.itemsize, flat.dtype))
        bucket.add(slot, flat)
    for bucket in shared.values():
        yield bucket.slots, bucket.data[: bucket.filled]


def pack(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES) -> WeightBuckets:
    """Copies of all buckets of the tensors; see ``OutgoingWeights``."""
    outgoing = OutgoingWeights(tensors, bucket_bytes)
    buckets = tuple(bucket.copy() for bucket in outgoing)
    return WeightBuckets(outgoing.slots, buckets)


def unpack(weights: WeightBuckets) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket. A bucket stays in memory as long as its views."""
    for slot in weights.slots:
        flat = weights.buckets[slot.bucket][slot.offset : slot.offset + slot.count]
        yield slot.name, _to_torch(flat, slot.dtype).view(slot.shape)


def checksum(weights: WeightBuckets) -> str:
    """A digest of names, shapes, dtypes and all bytes, as a hex string of 32 digits.

    It protects against corruption and mistakes, not against an attacker: XXH3 reads memory about as
    fast as a copy does, and a cryptographic hash takes ten times as long.
    """
    with ThreadPoolExecutor(_DIGEST_THREADS) as digester:
        return _combined(weights.slots, digester.map(_digest, weights.buckets))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The checksum that ``tensors`` would have in buckets. It copies one bucket at a time."""
    outgoing = OutgoingWeights(tensors)
    deque(outgoing, maxlen=0)
    return outgoing.checksum


def _digest(bucket: Bucket) -> bytes:
    return xxhash.xxh3_128_digest(np.ascontiguousarray(bucket).view(np.uint8).data)


def _combined(slots: Sequence[TensorSlot], digests: Iterable[bytes]) -> str:
    return xxhash.xxh3_128_hexdigest(repr(slots).encode() + b"".join(digests))


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
def load_into(parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> str:
    """Copy the buckets into the parameters of the same names, shapes and dtypes.

    ``check_fit`` checks all of them before the first copy, so that a wrong push changes nothing.
    Returns the weights' checksum, which is computed during the copies.
    """
    targets = dict(parameters)
    check_fit(targets.items(), weights)
    with ThreadPoolExecutor(_DIGEST_THREADS) as digester:
        digests = digester.map(_digest, weights.buckets)
        for name, source in unpack(weights):
            targets[name].copy_(source)
        return _combined(weights.slots, digests)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _to_numpy(tensor: Tensor) -> Bucket:
    """A flat view of a tensor in host memory, or a copy of one on a GPU."""
    flat = _on_host(tensor.detach()).contiguous().view(-1)
    return (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _on_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    # A GPU writes several times faster into pinned memory. torch keeps what is freed for the next
    # tensor, because pinning takes longer than the copy.
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def _to_torch(flat: Bucket, dtype: str) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that arrays of the object store are read-only. This view is only read.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(flat)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
