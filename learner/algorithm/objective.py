"""The EG-GRPO objective: from the log-probs of one micro-batch to a loss (eq. 9 and 10).

``eg_grpo_loss`` is the algorithm on one page, and every step is a pure function. Each call returns
its micro-batch's share of a sum over the whole batch. The gradients of the shares therefore add up
to the gradient of the batch, whichever way it is cut into micro-batches and ranks.

A token method decides what each token learns from the reward (``learner.algorithm.methods``). It is
EG-GRPO unless the settings name another.

Shape legend: B = trajectories, T = padded token columns (CoT first, then image).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.algorithm.choices import (
    CAP_FACTOR,
    HIGH_QUANTILE,
    LOW_QUANTILE,
    Aggregation,
    BonusRule,
    KlEstimator,
    Modalities,
)
from learner.algorithm.kl import KL_ESTIMATORS
from learner.algorithm.loss_metrics import (
    Metrics,
    entropy_metrics,
    exact_ratio,
    kl_metrics,
    surrogate_metrics,
)
from learner.algorithm.methods.eg_grpo import EgGrpo
from learner.algorithm.methods.token_method import Rows, TokenMethod


@dataclass(frozen=True)
class ObjectiveSettings:
    """The settings that the loss depends on. The defaults are those of the authors' code."""

    modalities: Modalities = "both"
    low_quantile: float = LOW_QUANTILE
    high_quantile: float = HIGH_QUANTILE
    bonus: BonusRule = "capped"
    cap_factor: float = CAP_FACTOR
    kappa: float = 1.0
    # A token method in place of EG-GRPO, which the settings above describe.
    other_method: TokenMethod[Any, Any] | None = None
    aggregation: Aggregation = "token-mean"
    aggregation_constant: float = 1.0  # Dr. GRPO's divisor; only "constant" reads it
    kl_beta: float = 0.01
    kl_estimator: KlEstimator = "k3"
    clip_low: float = 0.2
    clip_high: float = 0.2  # a value above clip_low is known as clip-higher
    dual_clip: float | None = None  # upper bound of the ratio where A~ < 0

    @property
    def method(self) -> TokenMethod[Any, Any]:
        """The token method: EG-GRPO with these settings, or the one in its place."""
        return self.other_method or EgGrpo(
            self.modalities,
            self.low_quantile,
            self.high_quantile,
            self.bonus,
            self.cap_factor,
            self.kappa,
            self.aggregation,
        )


@dataclass(frozen=True)
class BatchCounts:
    """Size of the whole optimizer batch over all micro-batches and ranks, padding excluded."""

    tokens: int  # valid tokens, those of CoTs and images together
    sequences: int  # trajectories; rows that only pad a micro-batch do not count


@dataclass(frozen=True)
class LossBatch:
    """One micro-batch. The values at masked positions, even NaN, have no effect."""

    logprob_BT: Tensor  # policy, with gradient; any float type
    # Log-probs of the same tokens under the frozen reference; None without a KL term (beta 0).
    reference_logprob_BT: Tensor | None
    cot_mask_BT: Tensor  # bool, valid CoT tokens, the first EOS included
    image_mask_BT: Tensor  # bool, valid image tokens
    advantage_B: Tensor  # A_i (eq. 4)
    has_variance_B: Tensor  # bool, whether rewards differ in the trajectory's group
    entropy_BT: Tensor | None  # h = H / log V, float32; may be None with modalities none (GRPO)
    # Log-probs under the weights that sampled the tokens; None if these are the weights trained.
    behaviour_logprob_BT: Tensor | None = None
    importance_weight_BT: Tensor | None = None  # truncated_importance_weight; None stands for 1
    surrogate_weight_BT: Tensor | None = None  # of the method's group stage; None stands for 1
    kl_weight_BT: Tensor | None = None  # the same for the KL term
    # What entropy control and distillation add to A~; None stands for 0.
    added_advantage_BT: Tensor | None = None


def eg_grpo_loss(
    batch: LossBatch,
    settings: ObjectiveSettings,
    counts: BatchCounts,
    settled: Any = None,
) -> tuple[Tensor, Metrics]:
    """This micro-batch's share of the loss (eq. 10), and its metrics.

    loss = sum over tokens of weight * -(surrogate(A~) - beta * k * KL), where the weights of the
    whole batch (``aggregation_weights``) sum to 1 under token-mean and sequence-mean. A~ and k are
    the terms of the token method; k is 1 in EG-GRPO. The shares are to be added over micro-batches
    and ranks; if a framework averages them over ranks, multiply them by the number of ranks. With
    ``modalities="none"`` it is the loss of GRPO (eq. 5 and eq. 6).

    A method with a batch stage needs its result in ``settled``, and in ``batch.entropy_BT`` the
    entropies that it was computed from. For the budget rules ``settled`` is lambda_B. Raises
    ValueError when an input that the settings need is None.
    """
    mask_BT = batch.cot_mask_BT | batch.image_mask_BT
    logprob_BT = _masked(batch.logprob_BT, mask_BT)
    rows = _rows(batch, mask_BT)

    terms = settings.method.terms(rows, settled)
    token_advantage_BT = _masked(terms.advantage_BT, mask_BT)
    if batch.added_advantage_BT is not None:
        token_advantage_BT = token_advantage_BT + _masked(batch.added_advantage_BT, mask_BT)

    if batch.behaviour_logprob_BT is None:
        surrogate_BT = policy_surrogate_on_policy(logprob_BT, token_advantage_BT)
        behaviour_logprob_BT = logprob_BT.detach()
    else:
        behaviour_logprob_BT = _masked(batch.behaviour_logprob_BT, mask_BT)
        surrogate_BT = policy_surrogate_clipped(
            logprob_BT,
            behaviour_logprob_BT,
            token_advantage_BT,
            settings.clip_low,
            settings.clip_high,
            settings.dual_clip,
        )
    if batch.importance_weight_BT is not None:
        surrogate_BT = surrogate_BT * _masked(batch.importance_weight_BT, mask_BT)

    token_loss_BT = -surrogate_BT
    if settings.kl_beta > 0.0:  # a term of inf or NaN times 0 would still be NaN
        if rows.reference_logprob_BT is None:
            raise ValueError(f"kl_beta {settings.kl_beta} needs the reference's log-probs")
        kl_BT = KL_ESTIMATORS[settings.kl_estimator](logprob_BT, rows.reference_logprob_BT)
        kl_BT = kl_BT * _masked(terms.kl_weight_BT, mask_BT)
        token_loss_BT = settings.kl_beta * kl_BT - surrogate_BT
    weight_BT = aggregation_weights(
        mask_BT, settings.aggregation, counts, settings.aggregation_constant
    )
    loss = (weight_BT * token_loss_BT).sum()

    metrics = terms.metrics | surrogate_metrics(
        mask_BT=mask_BT,
        advantage_B=rows.advantage_B,
        ratio_BT=exact_ratio(logprob_BT.detach(), behaviour_logprob_BT),
        token_advantage_BT=token_advantage_BT,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )
    if settings.kl_beta > 0.0 and rows.reference_logprob_BT is not None:
        metrics |= kl_metrics(logprob_BT.detach(), rows.reference_logprob_BT, mask_BT)
    if rows.entropy_BT is not None:
        metrics |= entropy_metrics(rows.entropy_BT, batch.cot_mask_BT, batch.image_mask_BT)
    return loss, metrics


def _rows(batch: LossBatch, mask_BT: Tensor) -> Rows:
    """The micro-batch as the token method sees it: without gradient, and 0 at masked positions."""

    def seen(value_BT: Tensor | None) -> Tensor | None:
        return None if value_BT is None else torch.where(mask_BT, value_BT.detach(), 0.0)

    reference_BT = batch.reference_logprob_BT
    return Rows(
        advantage_B=torch.where(mask_BT.any(dim=1), batch.advantage_B.float(), 0.0),
        has_variance_B=batch.has_variance_B,
        cot_mask_BT=batch.cot_mask_BT,
        image_mask_BT=batch.image_mask_BT,
        entropy_BT=seen(batch.entropy_BT),
        logprob_BT=seen(batch.logprob_BT.float()),
        reference_logprob_BT=None if reference_BT is None else seen(reference_BT.float()),
        surrogate_weight_BT=seen(batch.surrogate_weight_BT),
        kl_weight_BT=seen(batch.kl_weight_BT),
    )


def policy_surrogate_on_policy(logprob_BT: Tensor, token_advantage_BT: Tensor) -> Tensor:
    """exp(lp - sg(lp)) A~, where sg stops the gradient: value A~, gradient A~ grad lp."""
    return torch.exp(logprob_BT - logprob_BT.detach()) * token_advantage_BT


def policy_surrogate_clipped(
    logprob_BT: Tensor,
    behaviour_logprob_BT: Tensor,
    token_advantage_BT: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """min(ratio A~, clip(ratio, 1 - clip_low, 1 + clip_high) A~), ratio = exp(lp - behaviour lp).

    ``behaviour_logprob_BT`` is the token's log-prob under the trained distribution at the weight
    version that sampled it. Where A~ > 0 the ratio is bounded from above, where A~ < 0 from below.
    ``dual_clip`` bounds it from above where A~ < 0 as well (arXiv 1912.09729, eq. 5); without that
    bound one token can outweigh the batch. Where A~ = 0 the surrogate is 0. An infinite ratio has
    an effect only where it has no upper bound.
    """
    positive_BT, negative_BT = token_advantage_BT > 0.0, token_advantage_BT < 0.0
    highest_BT = torch.where(
        positive_BT, 1.0 + clip_high, torch.inf if dual_clip is None else dual_clip
    )
    lowest_BT = torch.where(negative_BT, 1.0 - clip_low, 0.0)
    log_ratio_BT = logprob_BT - behaviour_logprob_BT
    # Large ratios that the clamp would cut off, or A~ multiply by 0, are not computed: clamping an
    # infinite one gives the right value, but 0 * inf as its gradient. The log-ratio stops one nat
    # above the bound instead, so that no ratio within the bound is changed.
    log_ratio_BT = torch.where(positive_BT | negative_BT, log_ratio_BT, 0.0)
    log_ratio_BT = torch.minimum(log_ratio_BT, highest_BT.log() + 1.0)
    return torch.clamp(torch.exp(log_ratio_BT), lowest_BT, highest_BT) * token_advantage_BT


def truncated_importance_weight(
    learner_logprob_BT: Tensor, engine_logprob_BT: Tensor, cap: float
) -> Tensor:
    """min(exp(learner lp - engine lp), cap), without gradient.

    Learner and rollout engine compute slightly different log-probs from the same weights, and this
    weight corrects for it. The off-policy ratio is another thing: it compares two weight versions.
    """
    log_weight_BT = (learner_logprob_BT - engine_logprob_BT).detach().float()
    return torch.exp(log_weight_BT).clamp(max=cap)


def aggregation_weights(
    mask_BT: Tensor, aggregation: Aggregation, counts: BatchCounts, constant: float = 1.0
) -> Tensor:
    """Weight of every token in the batch's loss; 0 at masked positions. float32.

    token-mean: 1 / tokens (the authors' code, over the whole batch instead of a micro-batch).
    sequence-mean: 1 / (T_i sequences), the paper's mean over tokens, then over trajectories.
    constant: 1 / (constant sequences), free of length bias (Dr. GRPO, arXiv 2503.20783).
    """
    if aggregation == "token-mean":
        return mask_BT / counts.tokens
    if aggregation == "sequence-mean":
        length_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        return mask_BT / (length_B1 * counts.sequences)
    return mask_BT / (constant * counts.sequences)


def _masked(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The value in float32, with 0 and no gradient at masked positions. Multiplying by the mask
    would leave NaN there."""
    return torch.where(mask_BT, value_BT.float(), 0.0)
