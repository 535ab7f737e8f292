"""Checks that a worker which was given new weights computes with them, by comparing probes.

A probe is the log-prob of every token of a fixed sequence under the weights that a process serves.
docs/arrival.md measures how much the checks find. In float32 the probes of two engines change by
the same amounts to 1 %. In bfloat16 every update rounds differently: the probe then shows that a
small update arrived, but not how large it was.
"""

from __future__ import annotations

import numpy as np

from orchestrator.workers.failures import WorkerFailed
from policy.receipt import WeightReceipt
from policy.types import FloatArray

# The learner's probe has moved when this share of its tokens changed. An update that moves hardly
# any 16-bit weight changes fewer tokens, and perhaps none in another engine.
_MOVED_SHARE = 0.5
# Comparing two changes involves the rounding of four probes. The gap that an earlier push showed
# involves the rounding of two.
_ROUNDING_FACTOR = 4.0
_CHANGE_SHARE = 0.02  # rounding grows with the weights: 1 % at a learning rate of 1e-6 in float32


class Arrival:
    """Compares the probe of one rollout worker or learner rank with that of learner rank 0."""

    def __init__(self, name: str, tolerance: float) -> None:
        self._name, self._tolerance = name, tolerance
        self._rounding = 0.0  # largest gap of two probes so far, nats: it grows with the logits
        self._before: tuple[WeightReceipt, WeightReceipt] | None = None

    def check(self, receipt: WeightReceipt, expected: WeightReceipt) -> float:
        """Compare a receipt with the learner's; the gap between the probes' means, in nats.

        Raises ``WorkerFailed`` in three cases: version, checksum or mean are not the learner's;
        the learner's weights and probe have moved and the worker's probe has not changed by a bit;
        the worker's probe has changed by other amounts than rounding explains.
        """
        gap = check_receipt(self._name, receipt, expected, self._tolerance)
        if self._before is None:
            self._before = receipt, expected
        else:
            self._check_change(receipt, expected, *self._before)
        distance = _rms(receipt.probe_logprobs - expected.probe_logprobs)
        self._rounding = max(self._rounding, distance)
        return gap

    def _check_change(
        self,
        receipt: WeightReceipt,
        expected: WeightReceipt,
        earlier: WeightReceipt,
        expected_earlier: WeightReceipt,
    ) -> None:
        own = receipt.probe_logprobs - earlier.probe_logprobs
        learners = expected.probe_logprobs - expected_earlier.probe_logprobs
        # Until the learner's probe has moved, the older push stays: small changes add up.
        if np.mean(learners != 0) >= _MOVED_SHARE:
            self._before = receipt, expected
            if expected.checksum != expected_earlier.checksum and not own.any():
                raise WorkerFailed(
                    f"{self._name} received version {expected.weight_version} but serves older"
                    " weights: its probe did not change by a bit, and the learner's did"
                )
        off = _rms(own - learners)
        rounding = max(self._tolerance, _ROUNDING_FACTOR * self._rounding)
        allowed = rounding + _CHANGE_SHARE * _rms(learners)
        if not off <= allowed:
            raise WorkerFailed(
                f"{self._name} received version {expected.weight_version} but its probe changed by"
                f" other amounts than the learner's: {off:.2g} nats off (root of the mean square),"
                f" {allowed:.2g} allowed"
            )


def check_receipt(
    name: str, receipt: WeightReceipt, expected: WeightReceipt, tolerance: float
) -> float:
    """The gap between the means of the two probes, in nats.

    Raises ``WorkerFailed`` unless version and checksum are the learner's and the gap is within the
    tolerance.
    """
    if receipt.weight_version != expected.weight_version:
        raise WorkerFailed(
            f"{name} serves weight version {receipt.weight_version}, not {expected.weight_version}"
        )
    if receipt.checksum != expected.checksum:
        raise WorkerFailed(
            f"{name} received other weights than the learner sent (version"
            f" {expected.weight_version}, checksum {receipt.checksum}, not {expected.checksum})"
        )
    own, learners = (float(r.probe_logprobs.mean(dtype=np.float64)) for r in (receipt, expected))
    gap = abs(own - learners)
    if not gap <= tolerance:
        raise WorkerFailed(
            f"{name} received version {expected.weight_version} but does not compute with it: its"
            f" probe log-prob is {own:.6f}, the learner's {learners:.6f}"
            f" (tolerance {tolerance:g})"
        )
    return gap


def _rms(value: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
