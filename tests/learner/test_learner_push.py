"""A push in several calls: buckets, then the receipt, or the same failure again and again."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest

from learner.push import Push
from policy.receipt import WeightReceipt
from policy.weights import Bucket

RECEIPT = WeightReceipt(3, "c0ffee", np.zeros(1, np.float32))


def stream(fails: bool) -> Generator[Bucket, None, WeightReceipt]:
    yield np.ones(1)
    if fails:
        raise OSError("the GPU is lost")
    yield np.full(1, 2.0)
    return RECEIPT


def test_the_receipt_comes_after_the_last_bucket() -> None:
    """Two buckets, in one call or in two. Whoever asks for too many buckets, or for the receipt
    too early, has miscounted."""
    for counts in ([2], [1, 1]):
        push = Push(stream(fails=False))
        sent = [bucket.tolist() for count in counts for bucket in push.buckets(count)]
        assert sent == [[1.0], [2.0]]
        assert push.receipt() is RECEIPT
    with pytest.raises(RuntimeError, match="has a bucket left"):
        Push(stream(fails=False)).receipt()
    with pytest.raises(RuntimeError, match="has no bucket left"):
        Push(stream(fails=False)).buckets(3)


def test_what_broke_the_push_is_raised_by_every_later_call() -> None:
    """So the driver, which waits for the receipt alone, hears the cause."""
    push = Push(stream(fails=True))
    push.buckets(1)
    for call in (lambda: push.buckets(1), lambda: push.buckets(2), push.receipt):
        with pytest.raises(OSError, match="the GPU is lost"):
            call()
