"""Teacher-forced log-probs and entropies of trajectories under a policy.

Rollout workers use them for the probe and the learner uses them for training. The two differ only
in the kernel, the function that turns hidden states into log-probs.

Shape legend: B = trajectories, T = CoT columns then image columns, N = valid tokens, D = hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from policy.distribution import guide, logprob_entropy, temper, wide_product
from policy.janus import JanusPolicy
from policy.sequences import TrajectoryBatch
from policy.tree_states import states_at, tree_states


class LogprobKernel(Protocol):
    """Computes log-probs and entropies (nats, float32) of targets from a model's last layer.

    The distribution is softmax((u + w (c - u)) / T), as in ``policy.distribution``. c are the
    logits of ``hidden_ND`` and u those of ``twin_ND``. Without a twin it is softmax(c / T).
    """

    def __call__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        bias_V: Tensor | None,
        *,
        temperature: float,
        guidance_scale: float,
        twin_ND: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...


def plain_kernel(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    *,
    temperature: float,
    guidance_scale: float,
    twin_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The kernel that holds all logits, N V, at once.

    The logits of a probe fit into memory. Those of training at real sizes would not.
    """

    def logits(features_ND: Tensor) -> Tensor:
        logits_NV = wide_product(features_ND, weight_VD.T, torch.float32)
        return logits_NV if bias_V is None else logits_NV + bias_V

    logits_NV = logits(hidden_ND)
    if twin_ND is not None:
        logits_NV = guide(logits_NV, logits(twin_ND), guidance_scale)
    return logprob_entropy(temper(logits_NV, temperature), target_N)


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-prob and entropy of every token in nats; zero where the mask is false."""

    logprob_BT: Tensor
    entropy_BT: Tensor


def trajectory_logprobs(
    policy: JanusPolicy,
    batch: TrajectoryBatch,
    temperature: float,
    guidance_scale: float | None,
    kernel: LogprobKernel = plain_kernel,
) -> TokenLogprobs:
    """Log-probs and entropies of the tokens of both phases.

    Gradients flow through the log-probs to the trained weights. With ``guidance_scale`` the image
    tokens get their log-probs under the guided distribution, which costs a second forward pass.
    ``None`` means the conditional distribution.
    """
    hidden_PD = tree_states(policy, batch.tree)
    cot = kernel(
        states_at(hidden_PD, batch.cot.source_BT[batch.cot.mask_BT]),
        policy.model.lm_head.weight,
        batch.cot.target_BT[batch.cot.mask_BT],
        None,
        temperature=temperature,
        guidance_scale=1.0,
    )
    features_ND = policy.image_features(
        states_at(hidden_PD, batch.image.source_BT[batch.image.mask_BT])
    )
    twin_ND = None
    if guidance_scale is not None and guidance_scale != 1.0:
        twin_PD = tree_states(policy, batch.twin_tree)
        source_N = batch.unconditional.source_BT[batch.unconditional.mask_BT]
        twin_ND = policy.image_features(states_at(twin_PD, source_N))
    head = policy.model.model.generation_head.vision_head
    image = kernel(
        features_ND,
        head.weight,
        batch.image.target_BT[batch.image.mask_BT],
        head.bias,
        temperature=temperature,
        guidance_scale=1.0 if guidance_scale is None else guidance_scale,
        twin_ND=twin_ND,
    )
    logprobs, entropies = (
        torch.cat([_spread(a, batch.cot.mask_BT), _spread(b, batch.image.mask_BT)], dim=1)
        for a, b in zip(cot, image, strict=True)
    )
    return TokenLogprobs(logprobs, entropies)


def _spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Put the values of the valid tokens into their places, B T; zero everywhere else."""
    return torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT, value_N)
