"""Entropy bonus: the authors' capped rule and the paper's two batch-calibrated ones.

The calibrated rules need the whole optimizer batch, over all learner ranks, before the first
backward pass. ``BudgetTerms`` holds what they need of it as NumPy arrays, which the ranks exchange.
Shape legend: B = trajectories, T = padded token columns, M = high tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.choices import CAP_FACTOR, Aggregation

RELATIVE_ROUNDING = 1e-12  # float64 sums that differ by less count as equal


def capped_bonus(advantage_B: Tensor, entropy_BT: Tensor, factor: float = CAP_FACTOR) -> Tensor:
    """b = min(factor |A_i|, factor h), as in the authors' code."""
    return factor * torch.minimum(advantage_B.abs()[:, None], entropy_BT.detach())


def budget_bonus(lambda_b: float, entropy_BT: Tensor, has_variance_B: Tensor) -> Tensor:
    """b = lambda_B h, and 0 for trajectories of a group whose rewards are all equal.

    The exception is ours (docs/deviations.md, 5). In the paper, a group whose rewards are all equal
    gets a bonus, and so a gradient, as soon as another group of the batch makes lambda_B positive.
    """
    return torch.where(has_variance_B[:, None], lambda_b * entropy_BT.detach(), 0.0)


@dataclass(frozen=True)
class BudgetTerms:
    """What the budget of eq. 7 needs of the trajectories of a batch.

    Trajectories that have no tokens, or whose group has no variance, are left out: they neither
    save nor spend.
    """

    abs_advantage_B: NDArray[np.float64]
    num_tokens_B: NDArray[np.int64]  # T_i, CoT and image together whatever the modalities
    num_low_B: NDArray[np.int64]
    num_high_B: NDArray[np.int64]
    high_entropies_M: NDArray[np.float64]  # normalised, trajectory after trajectory

    @staticmethod
    def concatenate(parts: Sequence[BudgetTerms]) -> BudgetTerms:
        """The terms of a batch from those of its micro-batches and ranks."""
        return BudgetTerms(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(BudgetTerms)
            }
        )


def budget_terms(
    advantage_B: Tensor,
    has_variance_B: Tensor,
    entropy_BT: Tensor,
    mask_BT: Tensor,
    low_BT: Tensor,
    high_BT: Tensor,
) -> BudgetTerms:
    """Collect the terms of some trajectories.

    Args:
        advantage_B: A_i. has_variance_B: bool, whether the rewards in its group differ.
        entropy_BT: normalised entropies. mask_BT: bool, all valid tokens, both modalities.
        low_BT, high_BT: the partition (``partition_by_modality``).
    """
    kept_B = has_variance_B & mask_BT.any(dim=1)
    high_kept_BT = high_BT[kept_B]
    return BudgetTerms(
        abs_advantage_B=advantage_B[kept_B].abs().double().cpu().numpy(),
        num_tokens_B=mask_BT[kept_B].sum(dim=1).cpu().numpy(),
        num_low_B=low_BT[kept_B].sum(dim=1).cpu().numpy(),
        num_high_B=high_kept_BT.sum(dim=1).cpu().numpy(),
        high_entropies_M=entropy_BT.detach()[kept_B][high_kept_BT].double().cpu().numpy(),
    )


def sequence_weights(terms: BudgetTerms, aggregation: Aggregation) -> NDArray[np.float64]:
    """w_i, the weight that a trajectory's mean over tokens has in the loss.

    It is 1 under sequence-mean (the paper), and T_i under token-mean and constant, where every
    token has the same weight. With other weights the budget would not be what the loss spends.
    """
    if aggregation == "sequence-mean":
        return np.ones_like(terms.abs_advantage_B)
    return terms.num_tokens_B.astype(np.float64)


def saved_budget(terms: BudgetTerms, kappa: float, aggregation: Aggregation) -> float:
    """sum_i w_i (kappa - 1 + rho_low,i) |A_i|: what the zeroed low sets save for the bonus.

    A sum that differs from 0 by rounding alone is returned as 0. Otherwise ``budget_exact_lambda``
    would jump from 0 to its first kink.
    """
    rho_low_B = terms.num_low_B / terms.num_tokens_B
    mass_B = sequence_weights(terms, aggregation) * terms.abs_advantage_B
    saved = float(np.sum((kappa - 1.0 + rho_low_B) * mass_B))
    return saved if abs(saved) > RELATIVE_ROUNDING * float(np.sum(mass_B)) else 0.0


def budget_lambda(terms: BudgetTerms, kappa: float, aggregation: Aggregation) -> float:
    """lambda_B in closed form (eq. 8): the saved budget over sum_i w_i rho_high,i hbar_i.

    With kappa = 1 the bonus spends at most what is saved. Returns 0 when nothing is saved or no
    token is high.
    """
    saved = saved_budget(terms, kappa, aggregation)
    entropy_mass = float(np.sum(_high_token_weights(terms, aggregation) * terms.high_entropies_M))
    return saved / entropy_mass if saved > 0.0 and entropy_mass > 0.0 else 0.0


def budget_exact_lambda(terms: BudgetTerms, kappa: float, aggregation: Aggregation) -> float:
    """lambda_B that solves eq. 15 (appendix B.3), the smallest if there are several:

    sum_i w_i rho_high,i mean_high((lambda h - |A_i|)_+) = sum_i w_i (kappa - 1 + rho_low,i) |A_i|

    The left side is piecewise linear in lambda, with one kink per high token at |A_i| / h. So the
    kinks are sorted, and the segment that holds the root is solved without iteration. Returns 0
    when nothing is saved or no token is high.
    """
    saved = saved_budget(terms, kappa, aggregation)
    used_M = terms.high_entropies_M > 0.0
    if saved <= 0.0 or not used_M.any():
        return 0.0
    entropy_M = terms.high_entropies_M[used_M]
    weight_M = _high_token_weights(terms, aggregation)[used_M]
    abs_advantage_M = np.repeat(terms.abs_advantage_B, terms.num_high_B)[used_M]
    kink_M = abs_advantage_M / entropy_M
    order_M = np.argsort(kink_M, kind="stable")
    kink_M = kink_M[order_M]
    slope_M = np.cumsum((weight_M * entropy_M)[order_M])
    offset_M = np.cumsum((weight_M * abs_advantage_M)[order_M])
    # The left side at each kink, where the tokens up to that one contribute; it never decreases.
    spent_M = kink_M * slope_M - offset_M
    segment = max(int(np.searchsorted(spent_M, saved)) - 1, 0)
    return float((saved + offset_M[segment]) / slope_M[segment])


def _high_token_weights(terms: BudgetTerms, aggregation: Aggregation) -> NDArray[np.float64]:
    """w_i / T_i for each high token: its weight in w_i rho_high,i mean_high of trajectory i."""
    return np.repeat(sequence_weights(terms, aggregation) / terms.num_tokens_B, terms.num_high_B)
