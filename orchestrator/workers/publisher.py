"""Publishes the learner's weights, and checks that every worker computes with what it loaded.

Failure policy: a worker whose receipt does not match the learner's stops the run at once. A worker
that samples from old weights would only look like slow learning, and could go unnoticed for weeks.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from orchestrator.workers.arrival import Arrival
from orchestrator.workers.learner_group import LearnerGroup, PublishedWeights
from orchestrator.workers.waiting import WorkerFailed
from policy.probe import WeightReceipt

log = logging.getLogger("eg_grpo")


class WeightPublisher:
    """Owns the published versions. They outlive the learner; all but the last two are freed."""

    def __init__(self, tolerance: float) -> None:
        """``tolerance`` is the largest difference between the means of two probes, in nats."""
        self._tolerance = tolerance
        self._kept: list[PublishedWeights] = []
        self._arrivals: dict[str, Arrival] = {}

    def publish(self, learner: LearnerGroup, weight_version: int) -> PublishedWeights:
        """Put the learner's weights into the object store.

        Raises ``WorkerFailed`` when the learner holds another version, or when a learner rank's
        probe is not that of rank 0.
        """
        published = learner.publish()
        expected = published.receipt
        if expected.weight_version != weight_version:
            raise WorkerFailed(
                f"the learner holds weight version {expected.weight_version}, not {weight_version}"
            )
        for name, receipt in zip(learner.names[1:], published.other_ranks, strict=True):
            # No weights were sent to this rank, so its receipt has no checksum to compare.
            self._check(name, replace(receipt, checksum=expected.checksum), published)
        log.info("weight version %d: checksum %s", weight_version, expected.checksum)
        self._kept = [*self._kept[-1:], published]
        return published

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """The gap in nats between the worker's probe and the learner's for the version it loaded.

        Raises ``WorkerFailed``, which names the worker, if its weights or probe are not those of
        learner rank 0.
        """
        version = receipt.weight_version
        published = next(
            (kept for kept in self._kept if kept.receipt.weight_version == version), self._kept[-1]
        )
        gap = self._check(worker, receipt, published)
        log.info("%s serves weight version %d: checksum %s", worker, version, receipt.checksum)
        return gap

    def _check(self, name: str, receipt: WeightReceipt, published: PublishedWeights) -> float:
        arrival = self._arrivals.setdefault(name, Arrival(name, self._tolerance))
        return arrival.check(receipt, published.receipt)


class IdlePublisher:
    """Publishes nothing, for a run that trains nothing (``stages: rollout``)."""

    def publish(self, learner: object, weight_version: int) -> PublishedWeights:
        """No weights, under the version by which the schedule counts the steps."""
        receipt = WeightReceipt(weight_version, "", np.zeros(0, dtype=np.float32))
        return PublishedWeights(receipt, refs=None, other_ranks=())

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """There is no learner from which the worker could differ."""
        return 0.0
