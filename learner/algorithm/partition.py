"""Entropy partition (section 5.3): which tokens have low entropy and which have high entropy.

Shape legend: B = trajectories, T = padded token columns (CoT first, then image).
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.algorithm.choices import HIGH_QUANTILE, LOW_QUANTILE, Modalities


def entropy_partition(
    entropy_BT: Tensor,
    mask_BT: Tensor,
    low_quantile: float = LOW_QUANTILE,
    high_quantile: float = HIGH_QUANTILE,
) -> tuple[Tensor, Tensor]:
    """Split every row's valid tokens by that row's own entropy percentiles (section 5.3).

    The low set has h < q_low, the high set h > q_high. If all entropies of a row are equal, both
    sets are empty. Percentiles interpolate linearly between valid tokens; the entropies of other
    positions have no effect. Percentiles are in float64, because in float32 the percentile between
    two neighbouring numbers would be rounded to one of them. A row without valid tokens has two
    empty sets.

    Args:
        entropy_BT: normalised entropies, float32 or wider. No gradient flows through them.
        mask_BT: bool, the valid tokens of one modality.

    Returns:
        (low_BT, high_BT), disjoint bool subsets of ``mask_BT``.

    Raises TypeError for 16-bit entropies, because many of them are equal (576 image tokens had 13
    distinct values), and ValueError for quantiles out of order.
    """
    if entropy_BT.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"entropies must be float32 or float64, not {entropy_BT.dtype}")
    if not 0.0 <= low_quantile <= high_quantile <= 1.0:
        raise ValueError(f"need 0 <= {low_quantile=} <= {high_quantile=} <= 1")
    entropy_BT = entropy_BT.detach()
    sorted_BT = torch.where(mask_BT, entropy_BT, torch.inf).sort(dim=1).values
    count_B = mask_BT.sum(dim=1)
    low_B1 = _percentile(sorted_BT, count_B, low_quantile)
    high_B1 = _percentile(sorted_BT, count_B, high_quantile)
    return mask_BT & (entropy_BT < low_B1), mask_BT & (entropy_BT > high_B1)


def _percentile(sorted_BT: Tensor, count_B: Tensor, quantile: float) -> Tensor:
    """The percentile of the first ``count_B`` entries of each ascending row, of shape [B, 1]."""
    position_B = quantile * (count_B - 1).clamp(min=0).double()
    below_B = position_B.floor().long()
    above_B = position_B.ceil().long()
    below_B1 = sorted_BT.gather(1, below_B[:, None]).double()
    above_B1 = sorted_BT.gather(1, above_B[:, None]).double()
    return below_B1 + (position_B - below_B)[:, None] * (above_B1 - below_B1)


def partition_by_modality(
    entropy_BT: Tensor,
    cot_mask_BT: Tensor,
    image_mask_BT: Tensor,
    modalities: Modalities,
    low_quantile: float = LOW_QUANTILE,
    high_quantile: float = HIGH_QUANTILE,
) -> tuple[Tensor, Tensor]:
    """The union of the ``entropy_partition`` of CoT and of image tokens (section 5.3).

    Tokens of a modality that is off are in neither set, and keep the plain advantage. "cot" and
    "image" are the paper's ablations with one modality, "none" is GRPO.
    """
    low_BT = torch.zeros_like(cot_mask_BT)
    high_BT = torch.zeros_like(cot_mask_BT)
    for name, mask_BT in (("cot", cot_mask_BT), ("image", image_mask_BT)):
        if modalities in ("both", name):
            low, high = entropy_partition(entropy_BT, mask_BT, low_quantile, high_quantile)
            low_BT, high_BT = low_BT | low, high_BT | high
    return low_BT, high_BT
