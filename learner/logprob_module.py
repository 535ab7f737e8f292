"""The module that DeepSpeed wraps. It computes log-probs and entropies of trajectories.

Everything that reads trained parameters happens inside its ``forward``, because sharded parameters
are whole only there. Shape legend: B = trajectories, T = CoT columns then image columns,
N = tokens, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learner.algorithm.kernels import linear_logprob_entropy
from policy.janus import JanusPolicy
from policy.sequences import TrajectoryBatch
from policy.trajectory_logprobs import LogprobKernel, trajectory_logprobs


def entropy_kernel(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    **distribution: Any,
) -> tuple[Tensor, Tensor]:
    """Log-probs with gradient, and entropies, without the logits in memory."""
    logprob_N, entropy_N = linear_logprob_entropy(
        hidden_ND, weight_VD, target_N, bias_V, **distribution
    )
    assert entropy_N is not None
    return logprob_N, entropy_N


def logprob_kernel(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    **distribution: Any,
) -> tuple[Tensor, Tensor]:
    """Log-probs alone, for the reference and for plain GRPO. The entropies are NaN."""
    logprob_N, _ = linear_logprob_entropy(
        hidden_ND, weight_VD, target_N, bias_V, with_entropy=False, **distribution
    )
    return logprob_N, torch.full_like(logprob_N, torch.nan)


class LogprobModule(nn.Module):
    """A policy whose forward pass returns the log-probs and entropies of trajectories."""

    def __init__(self, policy: JanusPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        batch: TrajectoryBatch,
        kernel: LogprobKernel,
        temperature: float,
        guidance_scale: float | None,
    ) -> tuple[Tensor, Tensor]:
        """(logprob_BT, entropy_BT) in nats, zero where the mask is false.

        If ``guidance_scale`` is None, those of image tokens are of the conditional distribution.
        """
        found = trajectory_logprobs(self.policy, batch, temperature, guidance_scale, kernel)
        return found.logprob_BT, found.entropy_BT
