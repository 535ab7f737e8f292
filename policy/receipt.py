"""Proof of arrival: a worker's answer after it has loaded a weight version.

The answer has two parts. The checksum shows that the right bytes arrived. The log-probs of a fixed
probe (``policy.probe``) show that the model computes with them. A worker with a stale cache, or one
that loaded the bytes into an unused tensor, would pass the checksum and fail the probe.

The driver reads this module, so it imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy.types import FloatArray


@dataclass(frozen=True, eq=False)
class WeightReceipt:
    """A worker's answer to one push of weights. Two receipts are equal if every bit is."""

    weight_version: int
    checksum: str  # of the buffers as received
    probe_logprobs: FloatArray  # of the probe's tokens under the loaded weights, in nats

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WeightReceipt)
            and self.weight_version == other.weight_version
            and self.checksum == other.checksum
            and np.array_equal(self.probe_logprobs, other.probe_logprobs)
        )
