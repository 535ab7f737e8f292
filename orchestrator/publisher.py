"""Weights from the learner to every rollout worker, with proof of arrival.

Failure policy: a worker whose receipt does not match the learner stops the run at once. A stale
engine looks like bad luck for weeks; a stopped run does not.
"""

from __future__ import annotations

import ray

from learner.group import LearnerGroup
from orchestrator.pools import RolloutPool
from orchestrator.waiting import WorkerFailed
from policy.probe import WeightReceipt


class WeightPublisher:
    """Owns the published versions: they outlive the learner, and all but the last two are freed."""

    def __init__(self, learner: LearnerGroup, rollout: RolloutPool, tolerance: float) -> None:
        self.learner = learner
        self.rollout = rollout
        self.tolerance = tolerance
        self._kept: list[ray.ObjectRef] = []

    def publish(self, weight_version: int) -> float:
        """Push the learner's weights; returns the largest probe gap in nats.

        Raises ``WorkerFailed`` that names the worker whose buffers or probe differ.
        """
        published = self.learner.publish()
        self._kept = [*self._kept[-1:], published.buckets]
        expected = published.receipt
        if expected.weight_version != weight_version:
            raise WorkerFailed(
                f"the learner holds weight version {expected.weight_version}, not {weight_version}"
            )
        receipts = self.rollout.load_weights(published.buckets, weight_version)
        for name, receipt in zip(self.rollout.names, receipts, strict=True):
            check_receipt(name, receipt, expected, self.tolerance)
        return max(abs(r.probe_logprob - expected.probe_logprob) for r in receipts)


def check_receipt(
    name: str, receipt: WeightReceipt, expected: WeightReceipt, tolerance: float
) -> None:
    """Raise ``WorkerFailed`` unless the worker serves exactly what the learner published."""
    if receipt.weight_version != expected.weight_version:
        raise WorkerFailed(
            f"{name} serves weight version {receipt.weight_version}, not {expected.weight_version}"
        )
    if receipt.checksum != expected.checksum:
        raise WorkerFailed(
            f"{name} received other weights than the learner sent (version"
            f" {expected.weight_version}, checksum {receipt.checksum}, not {expected.checksum})"
        )
    gap = abs(receipt.probe_logprob - expected.probe_logprob)
    if not gap <= tolerance:
        raise WorkerFailed(
            f"{name} received version {expected.weight_version} but does not compute with it: its"
            f" probe log-prob is {receipt.probe_logprob:.6f}, the learner's"
            f" {expected.probe_logprob:.6f} (tolerance {tolerance:g})"
        )
