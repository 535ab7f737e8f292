"""Distillation of guidance with a weight of its own.

It is no token method, but an addition to any of them. Where image tokens are drawn from the guided
distribution pi_w and the conditional distribution pi is trained, every image token gets

    A~ += d

whatever its reward. The tokens are drawn from pi_w, so that under token-mean its expected gradient
is that of the loss term

    d KL(pi_w || pi) image tokens / tokens

with pi_w held fixed. The bonus of EG-GRPO has the same direction, but only at tokens of high
entropy and with a weight that advantage and entropy decide. docs/deviations.md, 32.

Shape legend: B = trajectories, T = padded token columns (CoT first, then image).
"""

from __future__ import annotations

import torch
from torch import Tensor


def distillation_advantage(weight: float, image_mask_BT: Tensor) -> Tensor:
    """The addition to A~: d at image tokens, 0 elsewhere. float32."""
    return torch.where(image_mask_BT, weight, 0.0)
