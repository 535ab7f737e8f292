"""Per-token estimators of the divergence from the frozen reference, by name.

d = reference log-prob - policy log-prob of the sampled token. Training uses the gradient of an
estimator as a loss term. For tokens drawn from the policy, the expected gradient of k2 is that of
KL(policy || reference), and that of k3 is that of KL(reference || policy); k3 is the paper's term.
For tokens drawn otherwise (guided or stale samples) neither averages to a divergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k2", "k3"]

# Nats. In float32 exp overflows at 89, and already from 44 on the square in a gradient norm does.
# A policy that gives a token e-40 of the reference's probability is far beyond any ordinary one.
MAX_LOG_RATIO = 40.0


def k2(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """d^2 / 2: never negative, biased."""
    return 0.5 * (reference_logprob - logprob).square()


def k3(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """exp(d) - d - 1: never negative and unbiased for KL(policy || reference); eq. 10's KL.

    Through expm1, since exp(d) - 1 loses every digit of the small d of early training. Above
    ``MAX_LOG_RATIO`` the exponential goes on as its tangent: value and gradient stay finite, and
    the gradient still pulls the token up, as hard as at the bound.
    """
    log_ratio = reference_logprob - logprob
    beyond = log_ratio > MAX_LOG_RATIO
    # Chosen before the exponential: the gradient of what is not selected would be 0 * inf.
    within = torch.where(beyond, 0.0, log_ratio)
    tangent = math.exp(MAX_LOG_RATIO) * (1.0 + log_ratio - MAX_LOG_RATIO) - 1.0
    return torch.where(beyond, tangent, torch.expm1(within)) - log_ratio


KL_ESTIMATORS: Mapping[KlEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k2": k2,
    "k3": k3,
}
