"""EG-GRPO: nothing for tokens of low entropy, a bonus for those of high entropy (eq. 9).

Shape legend: B = trajectories, T = padded token columns (CoT first, then image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.algorithm.bonus import (
    BudgetTerms,
    budget_bonus,
    budget_exact_lambda,
    budget_lambda,
    budget_terms,
    capped_bonus,
)
from learner.algorithm.choices import (
    CAP_FACTOR,
    HIGH_QUANTILE,
    LOW_QUANTILE,
    Aggregation,
    BonusRule,
    Modalities,
)
from learner.algorithm.loss_metrics import guidance_metrics
from learner.algorithm.methods.token_method import Need, Rows, TokenMethod, TokenTerms
from learner.algorithm.partition import partition_by_modality


def token_advantages(
    advantage_B: Tensor, low_BT: Tensor, high_BT: Tensor, bonus_BT: Tensor
) -> Tensor:
    """A~ = (1 - low) (A_i + high b) (eq. 9). Only the KL term acts on low tokens."""
    raised_BT = advantage_B[:, None] + torch.where(high_BT, bonus_BT, 0.0)
    return torch.where(low_BT, 0.0, raised_BT)


@dataclass(frozen=True)
class EgGrpo(TokenMethod[BudgetTerms, float]):
    """The paper's method with its three bonus rules. With modalities none it is GRPO.

    The budget rules settle lambda_B, the factor of the whole batch's bonus.
    """

    modalities: Modalities = "both"
    low_quantile: float = LOW_QUANTILE
    high_quantile: float = HIGH_QUANTILE
    bonus: BonusRule = "capped"
    cap_factor: float = CAP_FACTOR
    kappa: float = 1.0
    aggregation: Aggregation = "token-mean"  # of the loss, whose budget the bonus keeps

    @property
    def needs(self) -> frozenset[Need]:
        if self.modalities == "none":
            return frozenset()
        return frozenset({"entropy" if self.bonus == "capped" else "batch"})

    def summary(self, rows: Rows) -> BudgetTerms:
        """What the budget has to know of the rows' trajectories (eq. 7)."""
        entropy_BT, low_BT, high_BT = self._partition(rows)
        return budget_terms(
            rows.advantage_B, rows.has_variance_B, entropy_BT, rows.mask_BT, low_BT, high_BT
        )

    def settle(self, summaries: Sequence[BudgetTerms]) -> float:
        """lambda_B of the whole batch (eq. 8, or eq. 15 with bonus budget-exact)."""
        solve = budget_lambda if self.bonus == "budget" else budget_exact_lambda
        return solve(BudgetTerms.concatenate(summaries), self.kappa, self.aggregation)

    def settled_metrics(self, settled: float) -> dict[str, float]:
        return {"lambda_b": settled}

    def terms(self, rows: Rows, settled: float | None) -> TokenTerms:
        """A~ of eq. 9; ``settled`` is lambda_B. The weight of the KL term is 1 everywhere."""
        low_BT, high_BT, bonus_BT = self._guidance(rows, settled)
        advantage_BT = token_advantages(rows.advantage_B, low_BT, high_BT, bonus_BT)
        metrics = guidance_metrics(
            rows.mask_BT, low_BT, high_BT, rows.advantage_B, bonus_BT, advantage_BT
        )
        return TokenTerms(advantage_BT, torch.ones_like(advantage_BT), metrics)

    def _guidance(self, rows: Rows, lambda_b: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """(low_BT, high_BT, bonus_BT). For plain GRPO both sets are empty and the bonus is 0."""
        if self.modalities == "none":
            none_BT = torch.zeros_like(rows.cot_mask_BT)
            return none_BT, none_BT, none_BT.float()
        entropy_BT, low_BT, high_BT = self._partition(rows)
        if self.bonus == "capped":
            return low_BT, high_BT, capped_bonus(rows.advantage_B, entropy_BT, self.cap_factor)
        if lambda_b is None:
            raise ValueError(f"bonus {self.bonus!r} needs the batch's lambda")
        return low_BT, high_BT, budget_bonus(lambda_b, entropy_BT, rows.has_variance_B)

    def _partition(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """(entropy_BT, low_BT, high_BT)."""
        if rows.entropy_BT is None:
            raise ValueError(f"modalities {self.modalities!r} need entropies")
        sets = partition_by_modality(
            rows.entropy_BT,
            rows.cot_mask_BT,
            rows.image_mask_BT,
            self.modalities,
            self.low_quantile,
            self.high_quantile,
        )
        return rows.entropy_BT, *sets
