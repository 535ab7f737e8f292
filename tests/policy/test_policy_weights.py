"""Weights on the wire: what is packed is what is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.small_models.random_janus import tiny_policy
from policy.weights import (
    BucketLost,
    OutgoingWeights,
    WeightBuckets,
    checksum,
    load_into,
    pack,
    parcels,
    planned_slots,
    unpack,
)


def tensors(dtype: torch.dtype = torch.float32) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2, 2), "d": ()}
    return [(n, torch.randn(s, generator=generator).to(dtype)) for n, s in shapes.items()]


def read_only(weights: WeightBuckets) -> WeightBuckets:
    for bucket in weights.buckets:
        bucket.flags.writeable = False
    return weights


@given(
    bucket_bytes=st.integers(min_value=1, max_value=200),
    dtypes=st.lists(
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), min_size=4, max_size=4
    ),
)
def test_pack_and_unpack_are_inverse(bucket_bytes: int, dtypes: list[torch.dtype]) -> None:
    """For any bucket size and any mix of dtypes: names, shapes, dtypes and every bit."""
    named = [(name, tensor.to(d)) for (name, tensor), d in zip(tensors(), dtypes, strict=True)]
    weights = read_only(pack(named, bucket_bytes))
    found = dict(unpack(weights))
    assert found.keys() == dict(named).keys()
    for name, tensor in named:
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    sent = sum(bucket.nbytes for bucket in weights.buckets)
    assert sent == sum(t.numel() * t.element_size() for _, t in named)


def test_buckets_keep_to_their_size() -> None:
    """A bucket holds at most the bytes asked for, or a single larger tensor."""
    weights = pack(tensors(), bucket_bytes=40)
    assert [bucket.nbytes for bucket in weights.buckets] == [48, 20, 36]
    assert [slot.bucket for slot in weights.slots] == [0, 1, 2, 2]


def test_parcels_are_closed_when_they_have_their_size() -> None:
    """Of buckets of 48, 20 and 36 bytes."""
    slots = planned_slots(tensors(), bucket_bytes=40)
    assert [parcels(slots, size) for size in (1, 48, 49, 68, 69)] == [
        [1, 1, 1],
        [1, 2],
        [2, 1],
        [2, 1],
        [3],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_load_into_gives_every_bit(dtype: torch.dtype) -> None:
    """From read-only buffers, as the object store hands them out, into live parameters."""
    source, target = tiny_policy(seed=1).to(dtype), tiny_policy(seed=2).to(dtype)
    load_into(target.trained_parameters(), read_only(pack(source.trained_parameters(), 4096)))
    for (name, ours), (_, theirs) in zip(
        target.trained_parameters(), source.trained_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_large_tensor_is_sent_without_a_copy() -> None:
    """Its bucket is the tensor's own memory; tensors below the size of a bucket are copied."""
    large, small = torch.arange(10.0), torch.arange(9.0)
    named = [("small", small), ("large", large)]
    buckets = list(OutgoingWeights(named, planned_slots(named, bucket_bytes=40)))
    large += 1
    small += 1
    assert [bucket.tolist() for bucket in buckets] == [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    ]


def test_every_way_gives_the_same_checksum() -> None:
    """While sent, while loaded, and of the whole."""
    outgoing = OutgoingWeights(tensors(), planned_slots(tensors(), bucket_bytes=40))
    list(outgoing)
    weights = pack(tensors(), bucket_bytes=40)
    loaded = load_into([(name, torch.zeros_like(t)) for name, t in tensors()], weights)
    assert outgoing.checksum == checksum(weights) == loaded


class Arriving(Sequence[Any]):
    """Buckets of which each is made when it is read."""

    def __init__(self, *make: Callable[[], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return len(self._make)

    def __getitem__(self, index: Any) -> Any:
        return self._make[index]()


def lost() -> Any:
    raise BucketLost("bucket 1 of the weights is lost")


def test_a_bucket_is_loaded_while_the_next_one_is_on_its_way() -> None:
    """The second one comes only when the first is in its parameter. If it is lost, that is said."""
    weights = pack([("a", torch.ones(2)), ("b", torch.full((3,), 2.0))], bucket_bytes=1)
    first, second = weights.buckets
    parameters = {"a": torch.zeros(2), "b": torch.zeros(3)}

    def late() -> Any:
        deadline = time.monotonic() + 60
        while parameters["a"].tolist() != [1.0, 1.0]:
            assert time.monotonic() < deadline, "the first bucket is not loaded"
            time.sleep(0.001)
        return second

    arriving = replace(weights, buckets=Arriving(lambda: first, late))
    assert load_into(parameters.items(), arriving) == checksum(weights)
    assert parameters["b"].tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(BucketLost):
        load_into(parameters.items(), replace(weights, buckets=Arriving(lambda: first, lost)))


def test_large_tensors_are_loaded_piece_by_piece() -> None:
    """Of 20 pieces, of two and a rest, and into a parameter that does not lie in one piece. The
    checksum is that of whole buckets."""
    named = [
        ("whole", torch.arange(5 * 2**20, dtype=torch.float32).view(5, -1)),
        ("rest", torch.arange(2**19 + 3, dtype=torch.float32)),
        ("turned", torch.arange(2**20, dtype=torch.float32).view(2**10, -1)),
    ]
    weights = pack(named)
    target = {name: torch.zeros_like(tensor) for name, tensor in named}
    target["turned"] = torch.zeros(2**10, 2**10).t()
    assert load_into(target.items(), weights) == checksum(weights)
    assert all(torch.equal(target[name], tensor) for name, tensor in named)


def test_later_changes_of_the_source_do_not_travel() -> None:
    """Packing copies: a learner may go on training while workers fetch."""
    ((name, tensor), *_) = tensors()
    weights = pack([(name, tensor)])
    before = checksum(weights)
    tensor.zero_()
    assert checksum(weights) == before


def test_the_checksum_sees_every_change() -> None:
    """One bit of one bucket, a name, a shape, a dtype; equal weights have equal checksums."""
    weights = pack(tensors())
    same = pack(tensors())
    assert checksum(weights) == checksum(same)
    same.buckets[0].view(np.uint8)[3] ^= 1
    renamed, reshaped, retyped = (
        replace(weights, slots=(replace(weights.slots[0], **change), *weights.slots[1:]))
        for change in ({"name": "x"}, {"shape": (4, 3)}, {"dtype": "int32"})
    )
    sums = {checksum(w) for w in (weights, same, renamed, reshaped, retyped)}
    assert len(sums) == 5


def test_an_empty_tensor_is_refused() -> None:
    """A ZeRO-3 shard that nobody gathered has no element."""
    with pytest.raises(ValueError, match="b is empty"):
        pack([("a", torch.ones(2)), ("b", torch.ones(0))])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([("a", torch.ones(2))], "b is missing"),
        ([("a", torch.ones(2)), ("b", torch.ones(3)), ("c", torch.ones(1))], "c is unknown"),
        ([("a", torch.ones(2)), ("b", torch.ones(1, 3))], r"b has shape \(1, 3\), not \(3,\)"),
    ],
)
def test_a_wrong_push_changes_nothing(named: list[tuple[str, Tensor]], message: str) -> None:
    """Not even the tensors that would have fitted, and no bucket is waited for."""
    parameters = [("a", torch.zeros(2)), ("b", torch.zeros(3))]
    with pytest.raises(ValueError, match=message):
        load_into(parameters, pack(named))
    with pytest.raises(ValueError, match=message):
        load_into(parameters, replace(pack(named), buckets=Arriving(lost)))
    assert not any(tensor.any() for _, tensor in parameters)
