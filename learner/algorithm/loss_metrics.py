"""Metrics of the loss, as sums that add over micro-batches and ranks.

Every metric is a float64 tensor [sum, count]. The tensors are added over micro-batches and ranks,
and divided once at the end (``finish_metrics``).
Shape legend: B = trajectories, T = padded token columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from learner.algorithm.kl import k3

Metrics = dict[str, Tensor]

SQUARE_SUFFIX = "/square"  # a mean of squares, which becomes a /std beside its /mean


def guidance_metrics(
    mask_BT: Tensor,
    low_BT: Tensor,
    high_BT: Tensor,
    advantage_B: Tensor,
    bonus_BT: Tensor,
    token_advantage_BT: Tensor,
) -> Metrics:
    """Metrics of EG-GRPO's sets and bonus. The two fractions are means over valid tokens.

    bonus/mean is over high tokens. bonus/flip_share is a share of the high tokens of trajectories
    with a negative advantage: those whose token advantage the bonus made positive.
    """
    negative_high_BT = high_BT & (advantage_B < 0.0)[:, None]
    return {
        "tokens/low_fraction": _mean(low_BT, mask_BT),
        "tokens/high_fraction": _mean(high_BT, mask_BT),
        "bonus/mean": _mean(bonus_BT, high_BT),
        "bonus/flip_share": _mean(token_advantage_BT > 0.0, negative_high_BT),
    }


def selection_metrics(selected_BT: Tensor, mask_BT: Tensor) -> Metrics:
    """The share of valid tokens that were selected for their high entropy."""
    return {"tokens/high_fraction": _mean(selected_BT, mask_BT)}


def surrogate_metrics(
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    ratio_BT: Tensor,
    token_advantage_BT: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Metrics:
    """ratio/clipped is a mean over valid tokens, advantage/abs_mean over trajectories that have
    tokens."""
    over_BT = (ratio_BT > 1.0 + clip_high) & (token_advantage_BT > 0.0)
    under_BT = (ratio_BT < 1.0 - clip_low) & (token_advantage_BT < 0.0)
    if dual_clip is not None:
        over_BT |= (ratio_BT > dual_clip) & (token_advantage_BT < 0.0)
    return {
        "ratio/clipped": _mean(over_BT | under_BT, mask_BT),
        "advantage/abs_mean": _mean(advantage_B.abs(), mask_BT.any(dim=1)),
    }


def kl_metrics(logprob_BT: Tensor, reference_logprob_BT: Tensor, mask_BT: Tensor) -> Metrics:
    """kl/mean is the mean of k3 over valid tokens. For guided or stale samples it is no divergence
    (see ``learner.algorithm.kl``)."""
    return {"kl/mean": _mean(k3(logprob_BT, reference_logprob_BT), mask_BT)}


def exact_ratio(logprob_BT: Tensor, behaviour_logprob_BT: Tensor) -> Tensor:
    """exp(lp - behaviour lp), for metrics. It is in float64, which holds it up to 709 nats."""
    return torch.exp(logprob_BT.double() - behaviour_logprob_BT.double())


def entropy_metrics(entropy_BT: Tensor, cot_mask_BT: Tensor, image_mask_BT: Tensor) -> Metrics:
    """Mean and mean square of the normalised entropy of each modality's valid tokens."""
    metrics: Metrics = {}
    for name, mask_BT in (("cot", cot_mask_BT), ("image", image_mask_BT)):
        metrics[f"entropy/{name}/mean"] = _mean(entropy_BT, mask_BT)
        metrics[f"entropy/{name}{SQUARE_SUFFIX}"] = _mean(entropy_BT.double().square(), mask_BT)
    return metrics


def add_metrics(parts: Iterable[Metrics]) -> Metrics:
    """Sum each metric over the parts that have it."""
    total: Metrics = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


def finish_metrics(total: Metrics) -> dict[str, float]:
    """Means of the whole batch, NaN where nothing was counted. A mean of squares becomes a standard
    deviation."""
    means = {name: _ratio(*value.tolist()) for name, value in total.items()}
    for name in [name for name in means if name.endswith(SQUARE_SUFFIX)]:
        stem = name.removesuffix(SQUARE_SUFFIX)
        variance = means.pop(name) - means[f"{stem}/mean"] ** 2
        # Rounding may leave a small negative number where the true variance is 0.
        means[f"{stem}/std"] = variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))
    return means


def _mean(value: Tensor, mask: Tensor) -> Tensor:
    value = torch.where(mask, value.detach().double(), 0.0)
    return torch.stack([value.sum(), mask.sum().double()])


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
