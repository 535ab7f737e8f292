"""What a learner rank publishes, collected in this process as the object store collects it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy.receipt import WeightReceipt
from policy.weights import Bucket, WeightBuckets

if TYPE_CHECKING:  # it imports DeepSpeed, which some machines with a GPU lack
    from learner.rank import LearnerRank


def published_weights(rank: LearnerRank) -> tuple[WeightReceipt, WeightBuckets]:
    """The receipt and copies of the buckets; no buckets from ranks other than 0."""
    stream = rank.publish()
    buckets: list[Bucket] = []
    while True:
        try:
            buckets.append(next(stream).copy())
        except StopIteration as end:
            return end.value, WeightBuckets(rank.slots() if buckets else (), tuple(buckets))
