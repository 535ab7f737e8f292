"""Weights as they are sent from the learner to the workers: tensors in flat buckets.

Only trained tensors are sent. The buckets are NumPy arrays, because workers read those in Ray's
object store without a copy. NumPy has no bfloat16, so such weights are sent as int16 with the same
bits.

A push copies a large tensor twice: into the object store, and from there into the parameters of
each worker. The sender computes digests beside its other work, a few buckets late. A receiver
computes them piece by piece, and copies each piece while the processor's cache still has it.
"""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from policy.slots import TensorSlot

Bucket = NDArray[np.generic]

# A tensor of this size or more is a bucket of its own. Smaller ones share buckets of this size.
BUCKET_BYTES = 32 * 2**20
# Buckets travel in parcels of this size or more, because each object costs Ray some milliseconds.
PARCEL_BYTES = 160 * 2**20
# A receiver reads so many bytes at a time, which fit into a processor's cache. Onto a GPU it sends
# more, because each copy to it costs time of its own.
_PIECE_BYTES, _GPU_PIECE_BYTES = 2**20, 4 * 2**20
# So many buckets may have been handed out whose digests are not yet computed.
_LATE_DIGESTS = 4
# One thread cannot use all the bandwidth of a machine's memory. More than two gain little.
_THREADS = 2


class BucketLost(Exception):
    """A bucket will not come, because its sender has died or failed."""


@dataclass(frozen=True)
class WeightBuckets:
    """The trained tensors of one weight version."""

    slots: tuple[TensorSlot, ...]  # bucket by bucket, and in the order of their offsets
    # They may still be on their way: then reading one waits for it, or raises ``BucketLost``.
    buckets: Sequence[Bucket]


def planned_slots(
    tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> tuple[TensorSlot, ...]:
    """The slots of tensors that will be sent; only their names, shapes and dtypes count.

    A bucket has one dtype. Tensors smaller than ``bucket_bytes`` share buckets.
    """
    shared: dict[str, list[TensorSlot]] = {}  # by dtype: the bucket that still has room
    full: list[list[TensorSlot]] = []
    for name, tensor in tensors:
        dtype, count = _dtype_name(tensor), tensor.numel()
        slot = TensorSlot(name, tuple(tensor.shape), dtype, 0, 0, count)
        if count * tensor.element_size() >= bucket_bytes:
            full.append([slot])
            continue
        others = shared.setdefault(dtype, [])
        filled = others[-1].offset + others[-1].count if others else 0
        if (filled + count) * tensor.element_size() > bucket_bytes:
            full.append(others)
            others, filled = [], 0
        shared[dtype] = [*others, replace(slot, offset=filled)]
    full += shared.values()
    return tuple(replace(slot, bucket=index) for index, slots in enumerate(full) for slot in slots)


def parcels(slots: Sequence[TensorSlot], parcel_bytes: int = PARCEL_BYTES) -> list[int]:
    """How many buckets each parcel holds. A parcel is closed when it has ``parcel_bytes``."""
    counts, size = [0], 0
    for _, tensors in groupby(slots, attrgetter("bucket")):
        if size >= parcel_bytes:
            counts.append(0)
            size = 0
        counts[-1] += 1
        size += sum(slot.count * getattr(torch, slot.dtype).itemsize for slot in tensors)
    return counts


class OutgoingWeights:
    """The buckets of named tensors, one after the other, to be read once.

    A bucket may be a view of a tensor, which must not change before all buckets have been read.
    ``checksum`` is complete then.
    """

    def __init__(
        self, tensors: Iterable[tuple[str, Tensor]], slots: tuple[TensorSlot, ...]
    ) -> None:
        """``slots`` are the ``planned_slots`` of the tensors, which come in the same order."""
        self.slots = slots
        self.checksum = ""
        self._tensors = tensors

    def __iter__(self) -> Iterator[Bucket]:
        """Raises ``ValueError`` for a tensor that was not gathered from its shards."""
        digests: list[Future[bytes]] = []
        with ThreadPoolExecutor(1) as digester:
            for bucket in _filled(self._tensors, self.slots):
                digests.append(digester.submit(_digest, bucket))
                yield bucket
                # Digests are computed while the buckets are copied, but not many buckets later,
                # because those of a GPU are kept in the host's memory until then.
                if len(digests) > _LATE_DIGESTS:
                    digests[-_LATE_DIGESTS].result()
        self.checksum = _combined(self.slots, (digest.result() for digest in digests))


def _filled(tensors: Iterable[tuple[str, Tensor]], slots: Sequence[TensorSlot]) -> Iterator[Bucket]:
    """The buckets in order, each as soon as all that lies in it has come."""
    places = {slot.name: slot for slot in slots}
    lacking = Counter[int]()
    for slot in slots:
        lacking[slot.bucket] += slot.count
    sizes, buckets, following = dict(lacking), dict[int, Bucket](), 0
    for name, tensor in tensors:
        slot = places[name]
        flat = _to_numpy(tensor)
        if not flat.size == slot.count > 0:
            raise ValueError(f"weight {name} is empty: it was not gathered from its shards")
        if slot.bucket == following and slot.count == sizes[following]:
            buckets[following] = flat  # it fills its bucket, whose turn it is: no copy is needed
        else:
            if slot.bucket not in buckets:
                buckets[slot.bucket] = np.empty(sizes[slot.bucket], flat.dtype)
            buckets[slot.bucket][slot.offset : slot.offset + slot.count] = flat
        lacking[slot.bucket] -= slot.count
        while following in buckets and not lacking[following]:
            yield buckets.pop(following)
            following += 1


def pack(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES) -> WeightBuckets:
    """Copies of all buckets of the tensors; see ``OutgoingWeights``."""
    named = list(tensors)
    outgoing = OutgoingWeights(named, planned_slots(named, bucket_bytes))
    return WeightBuckets(outgoing.slots, tuple(bucket.copy() for bucket in outgoing))


def unpack(weights: WeightBuckets) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket. A bucket stays in memory as long as its views."""
    for tensors in _by_bucket(weights):
        yield from tensors


def _by_bucket(weights: WeightBuckets) -> Iterator[list[tuple[str, Tensor]]]:
    """The tensors of each bucket, which are views of it."""
    for index, slots in groupby(weights.slots, attrgetter("bucket")):
        bucket = weights.buckets[index]
        parts = [(slot, bucket[slot.offset : slot.offset + slot.count]) for slot in slots]
        yield [(slot.name, _to_torch(part, slot.dtype).view(slot.shape)) for slot, part in parts]


def checksum(weights: WeightBuckets) -> str:
    """A digest of names, shapes, dtypes and all bytes, as a hex string of 32 digits.

    It protects against corruption and mistakes, not against an attacker: XXH3 reads memory about as
    fast as a copy does, and a cryptographic hash takes ten times as long.
    """
    with ThreadPoolExecutor(_THREADS) as digester:
        return _combined(weights.slots, digester.map(_digest, weights.buckets))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The checksum that ``tensors`` would have in buckets. It copies one bucket at a time."""
    named = list(tensors)
    outgoing = OutgoingWeights(named, planned_slots(named))
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


def load_into(parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> str:
    """Copy the buckets into the parameters of the same names, shapes and dtypes, as they come.

    ``check_fit`` checks all of them before the first copy, so that a wrong push changes nothing.
    Returns the weights' checksum. Raises ``BucketLost`` when a bucket does not come: some
    parameters then have new values and others have not.
    """
    targets = dict(parameters)
    check_fit(targets.items(), weights)
    with ThreadPoolExecutor(_THREADS) as threads:
        # This thread makes the views: ``_to_torch`` may be called by one thread at a time.
        digests = [
            threads.submit(_copy, [(source, targets[name]) for name, source in tensors])
            for tensors in _by_bucket(weights)
        ]
        return _combined(weights.slots, (digest.result() for digest in digests))


@torch.no_grad()
def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> bytes:
    """Copy the tensors of one bucket, in order, into others; returns the digest of the bucket."""
    digest = xxhash.xxh3_128()
    for source, target in pairs:
        for piece, into in _pieces(source, target.detach()):
            sent = piece.view(-1).view(torch.uint8).numpy()
            digest.update(sent.data)
            if into.device.type == "cpu" and into.is_contiguous():
                # Unlike torch's copy, this is the C library's, see ``policy.runtime``.
                np.copyto(into.view(-1).view(torch.uint8).numpy(), sent)
            else:
                into.copy_(piece)
    return digest.digest()


def _pieces(source: Tensor, target: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    if not target.is_contiguous():
        return [(source, target)]
    size = _PIECE_BYTES if target.device.type == "cpu" else _GPU_PIECE_BYTES
    count = size // source.element_size()
    flat = source.view(-1), target.view(-1)
    return zip(*(tensor.split(count) for tensor in flat), strict=True)


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
