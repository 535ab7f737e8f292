"""Publishes the learner's weights, and checks that every worker computes with what it loaded.

Workers may begin to load weights while the learner still publishes them. Their receipts can be
checked when it has published all.

Failure policy: a worker whose receipt does not match the learner's stops the run at once. A worker
that samples from old weights would only look like slow learning, and could go unnoticed for weeks.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from orchestrator.workers.arrival import Arrival
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.learner_group import LearnerGroup, PublishedWeights
from policy.receipt import WeightReceipt

log = logging.getLogger("eg_grpo")


class WeightPublisher:
    """Owns the published versions. They outlive the learner; all but the last two are freed."""

    def __init__(self, tolerance: float) -> None:
        """``tolerance`` is the largest difference between the means of two probes, in nats."""
        self._tolerance = tolerance
        self._kept: list[tuple[PublishedWeights, WeightReceipt]] = []
        self._arrivals: dict[str, Arrival] = {}

    def publish(self, learner: LearnerGroup, weight_version: int) -> PublishedWeights:
        """Have the learner begin to put its weights into the object store.

        Raises ``WorkerFailed`` when the learner holds another version.
        """
        weights = learner.publish()
        if weights.weight_version != weight_version:
            raise WorkerFailed(
                f"the learner holds weight version {weights.weight_version}, not {weight_version}"
            )
        return weights

    def complete(self, learner: LearnerGroup, weights: PublishedWeights) -> None:
        """Return when the weights are in the object store.

        Raises ``WorkerFailed`` when a learner rank's probe is not that of rank 0.
        """
        expected, *others = learner.receipts()
        for name, receipt in zip(learner.names[1:], others, strict=True):
            # No weights were sent to this rank, so its receipt has no checksum to compare.
            self._check(name, replace(receipt, checksum=expected.checksum), expected)
        log.info("weight version %d: checksum %s", expected.weight_version, expected.checksum)
        self._kept = [*self._kept[-1:], (weights, expected)]

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """The gap in nats between the worker's probe and the learner's for the version it loaded.

        Raises ``WorkerFailed``, which names the worker, if its weights or probe are not those of
        learner rank 0.
        """
        version, kept = receipt.weight_version, [expected for _, expected in self._kept]
        expected = next((one for one in kept if one.weight_version == version), kept[-1])
        gap = self._check(worker, receipt, expected)
        log.info("%s serves weight version %d: checksum %s", worker, version, receipt.checksum)
        return gap

    def _check(self, name: str, receipt: WeightReceipt, expected: WeightReceipt) -> float:
        arrival = self._arrivals.setdefault(name, Arrival(name, self._tolerance))
        return arrival.check(receipt, expected)


class IdlePublisher:
    """Publishes nothing, for a run that trains nothing (``stages: rollout``)."""

    def publish(self, learner: object, weight_version: int) -> PublishedWeights:
        """No weights, under the version by which the schedule counts the steps."""
        return PublishedWeights(weight_version, refs=None)

    def complete(self, learner: object, weights: PublishedWeights) -> None:
        """There is nothing to wait for."""

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """There is no learner from which the worker could differ."""
        return 0.0
