"""Sends the learner's weights to every rollout worker and checks that they arrived.

Failure policy: a worker whose receipt does not match the learner's stops the run at once. A worker
that samples from old weights would only look like slow learning, and could go unnoticed for weeks.
"""

from __future__ import annotations

from dataclasses import replace

import ray

from orchestrator.workers.arrival import Arrival
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import WorkerFailed


class WeightPublisher:
    """Owns the published versions. They outlive the learner; all but the last two are freed."""

    def __init__(self, learner: LearnerGroup, rollout: RolloutPool, tolerance: float) -> None:
        self.learner = learner
        self.rollout = rollout
        self.tolerance = tolerance
        self._kept: list[ray.ObjectRef] = []
        self._arrivals: dict[str, Arrival] = {}

    def publish(self, weight_version: int) -> float:
        """Push the learner's weights; returns the largest probe gap in nats.

        Raises ``WorkerFailed``, which names the rollout worker or learner rank whose weights or
        probe are not those of learner rank 0.
        """
        published = self.learner.publish()
        self._kept = [*self._kept[-1:], published.buckets]
        expected = published.receipt
        if expected.weight_version != weight_version:
            raise WorkerFailed(
                f"the learner holds weight version {expected.weight_version}, not {weight_version}"
            )
        receipts = self.rollout.load_weights(published.buckets, weight_version)
        answers = dict(zip(self.rollout.names, receipts, strict=True))
        for name, receipt in zip(self.learner.names[1:], published.other_ranks, strict=True):
            # No weights were sent to this rank, so its receipt has no checksum to compare.
            answers[name] = replace(receipt, checksum=expected.checksum)
        return max(
            self._arrivals.setdefault(name, Arrival(name, self.tolerance)).check(answer, expected)
            for name, answer in answers.items()
        )
