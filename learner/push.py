"""One push of weights that is made in several calls: buckets, and at the end the receipt."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from policy.receipt import WeightReceipt

if TYPE_CHECKING:  # it imports torch
    from policy.weights import Bucket


class Push:
    """Reads what ``LearnerRank.publish`` yields. After a failure every call raises it again."""

    def __init__(self, stream: Generator[Bucket, None, WeightReceipt]) -> None:
        self._stream = stream
        self._failure: Exception | None = None

    def buckets(self, count: int) -> list[Bucket]:
        """The next buckets, ``count`` of them."""
        return [self._bucket() for _ in range(count)]

    def receipt(self) -> WeightReceipt:
        """The receipt, when all buckets have been read."""
        receipt = self._next()
        if not isinstance(receipt, WeightReceipt):
            raise RuntimeError("the push has a bucket left")
        return receipt

    def _bucket(self) -> Bucket:
        bucket = self._next()
        if isinstance(bucket, WeightReceipt):
            raise RuntimeError("the push has no bucket left")
        return bucket

    def _next(self) -> Bucket | WeightReceipt:
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._stream)
        except StopIteration as end:
            receipt: WeightReceipt = end.value
            return receipt
        except Exception as error:
            self._failure = error
            raise
