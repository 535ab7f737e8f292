"""Per-token estimators of the KL divergence from the frozen reference, by name.

d = reference log-prob - policy log-prob of the sampled token. Training uses the gradient of an
estimator as a loss term. For tokens drawn from the policy, the expected gradient of k2 is that of
KL(policy || reference), and that of k3 is that of KL(reference || policy); k3 is the paper's term.
For tokens drawn otherwise (guided or stale samples) neither averages to a divergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from learner.algorithm.choices import KlEstimator

# Nats. In float32 exp(d) overflows at d = 89, and its square in a gradient norm from d = 44 on.
# Training does not get there: at 40 the policy gives a token e^-40 of the reference's probability.
MAX_LOG_RATIO = 40.0


def k2(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """d^2 / 2: never negative, biased."""
    return 0.5 * (reference_logprob - logprob).square()


def k3(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """exp(d) - d - 1: never negative and unbiased for KL(policy || reference); eq. 10's KL.

    It is computed by expm1, because exp(d) - 1 has no correct digit for the small d of early
    training. Above ``MAX_LOG_RATIO`` the exponential is replaced by its tangent there. Value and
    gradient stay finite, and the gradient raises the token's probability as strongly as at the
    bound.
    """
    log_ratio = reference_logprob - logprob
    beyond = log_ratio > MAX_LOG_RATIO
    # The log-ratio is replaced before the exponential. Otherwise the branch that is not selected
    # would have the gradient 0 * inf, which is NaN.
    within = torch.where(beyond, 0.0, log_ratio)
    tangent = math.exp(MAX_LOG_RATIO) * (1.0 + log_ratio - MAX_LOG_RATIO) - 1.0
    return torch.where(beyond, tangent, torch.expm1(within)) - log_ratio


KL_ESTIMATORS: Mapping[KlEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k2": k2,
    "k3": k3,
}
