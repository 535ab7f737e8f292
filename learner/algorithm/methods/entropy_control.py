"""Entropy control: holds the mean entropy of CoT and of image tokens at a target each.

It is no token method, but an addition to any of them (ReasonGen-R1, arXiv 2505.24875). The loss
gets the term alpha_m (mean entropy of modality m), whose coefficient may have either sign. Under
token-mean its gradient is, in expectation over tokens of the trained distribution at ratio 1, that
of an addition to the token advantage:

    A~ += alpha_m (lp + H) tokens / tokens_m,   alpha_m = sinh(psi_m)

After each optimizer step, one step of Adam on -alpha_m (mean entropy - target) moves psi_m. Above
the target alpha rises, which pushes the entropy down. docs/deviations.md, 31.

Shape legend: B = trajectories, T = padded token columns (CoT first, then image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True)
class Controller:
    """The coefficient of one modality, and the state of its Adam. It is kept in checkpoints."""

    psi: float = 0.0
    gradient: float = 0.0  # running mean
    square: float = 0.0  # running mean of the gradient's square
    steps: int = 0

    @property
    def alpha(self) -> float:
        return math.sinh(self.psi)

    def moved(
        self, entropy: float, target: float, learning_rate: float, limit: float
    ) -> Controller:
        """After a step whose batch had this mean entropy, in nats. A batch without tokens of the
        modality has the mean NaN, and moves nothing."""
        if math.isnan(entropy):
            return self
        slope = -math.cosh(self.psi) * (entropy - target)
        gradient = BETAS[0] * self.gradient + (1.0 - BETAS[0]) * slope
        square = BETAS[1] * self.square + (1.0 - BETAS[1]) * slope**2
        steps = self.steps + 1
        unbiased = gradient / (1.0 - BETAS[0] ** steps)
        scale = math.sqrt(square / (1.0 - BETAS[1] ** steps)) + EPSILON
        bound = math.asinh(limit)
        psi = min(max(self.psi - learning_rate * unbiased / scale, -bound), bound)
        return Controller(psi, gradient, square, steps)


@dataclass(frozen=True)
class EntropyCredit:
    """What one optimizer step adds to the token advantages."""

    cot_factor: float  # alpha tokens / tokens_m, of the whole batch
    image_factor: float
    cot_nats: float  # log V, which turns normalised entropies into nats
    image_nats: float

    def added_advantage(
        self, logprob_BT: Tensor, entropy_BT: Tensor, cot_mask_BT: Tensor, image_mask_BT: Tensor
    ) -> Tensor:
        """The addition to A~, 0 outside of the masks; ``entropy_BT`` is normalised."""
        added_BT = torch.zeros_like(logprob_BT)
        for factor, nats, mask_BT in (
            (self.cot_factor, self.cot_nats, cot_mask_BT),
            (self.image_factor, self.image_nats, image_mask_BT),
        ):
            credit_BT = factor * (logprob_BT + nats * entropy_BT)
            added_BT = torch.where(mask_BT, credit_BT, added_BT)
        return added_BT
