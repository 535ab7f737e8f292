"""The loss of a micro-batch, and what it needs to know of the whole batch.

Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.algorithm.loss_metrics import Metrics, exact_ratio
from learner.algorithm.methods.distillation import distillation_advantage
from learner.algorithm.methods.entropy_control import EntropyCredit
from learner.algorithm.methods.token_method import Rows
from learner.algorithm.objective import (
    BatchCounts,
    LossBatch,
    eg_grpo_loss,
    truncated_importance_weight,
)
from learner.config import AlgorithmConfig
from learner.micro_batches import MicroBatch, TrainingTrajectory
from policy.types import FloatArray

USUAL_RATIOS = 0.9, 1.1  # ratio/outside counts the tokens whose ratio is below or above


@dataclass(frozen=True)
class ShareSize:
    """What each rank tells the others about its share of the batch before the first pass."""

    tokens: int
    sequences: int
    micro_batches: int
    staleness: int  # weight versions from rollout to training, of the oldest trajectory
    stale: bool  # whether other weights than those trained sampled any of it


@dataclass(frozen=True)
class BatchSize:
    """The size of the whole batch, over all ranks."""

    counts: BatchCounts
    # Every rank runs this number of passes, so that the ranks' collectives match.
    micro_batches: int
    staleness: int  # weight versions from rollout to training, of the oldest trajectory
    stale: bool  # whether other weights than those trained sampled any of it

    @classmethod
    def of(cls, shares: Sequence[ShareSize]) -> BatchSize:
        counts = BatchCounts(
            tokens=sum(share.tokens for share in shares),
            sequences=sum(share.sequences for share in shares),
        )
        if counts.tokens == 0:
            raise ValueError("the batch holds no trajectory to train on")
        return cls(
            counts=counts,
            micro_batches=max(share.micro_batches for share in shares),
            staleness=max(share.staleness for share in shares),
            stale=any(share.stale for share in shares),
        )


def normalised_entropy(
    entropy_BT: Tensor, batch: MicroBatch, text_vocab_size: int, num_codes: int
) -> Tensor:
    """h = H / log V. V is the size of the vocabulary that the token was drawn from."""
    log_vocab_BT = torch.where(batch.cot_mask_BT, math.log(text_vocab_size), math.log(num_codes))
    return entropy_BT / log_vocab_BT


def recorded_rows(batch: MicroBatch, entropy_BT: Tensor) -> Rows:
    """What the batch stage of a token method sees of a micro-batch, before the training pass.

    ``entropy_BT`` are normalised entropies.
    """
    return Rows(
        advantage_B=batch.advantage_B,
        has_variance_B=batch.has_variance_B,
        cot_mask_BT=batch.cot_mask_BT,
        image_mask_BT=batch.image_mask_BT,
        entropy_BT=entropy_BT,
    )


def micro_batch_loss(
    batch: MicroBatch,
    logprob_BT: Tensor,
    reference_logprob_BT: Tensor | None,
    entropy_BT: Tensor,
    algorithm: AlgorithmConfig,
    counts: BatchCounts,
    settled: Any,
    credit: EntropyCredit | None = None,
) -> tuple[Tensor, Metrics]:
    """This micro-batch's share of the loss, and its metrics as sums.

    ``settled`` is the result of the token method's batch stage, None without one. ``credit`` is
    what entropy control adds, if there is any.

    With behaviour_logprob rollout, stale trajectories get the clipped surrogate, whose ratio is
    exp(log-prob - recorded log-prob). All others get the on-policy surrogate, times the truncated
    importance weight if there is a cap (see ``AlgorithmConfig``).
    """
    current_BT, recorded_BT = logprob_BT.detach(), batch.recorded_logprob_BT
    has_ratio_B1 = batch.is_stale_B[:, None] & (algorithm.behaviour_logprob == "rollout")
    behaviour_BT = None
    if bool(has_ratio_B1.any()):
        behaviour_BT = torch.where(has_ratio_B1, recorded_BT, current_BT)
    importance_BT = None
    cap = algorithm.importance_cap
    if cap is not None:
        weight_BT = truncated_importance_weight(current_BT, recorded_BT, cap)
        # A token with such a ratio needs no weight: the ratio compares with what the rollout engine
        # computed, so that it contains the difference of the two engines.
        importance_BT = torch.where(has_ratio_B1, 1.0, weight_BT)
    added_BT = None
    if credit is not None:
        masks = batch.cot_mask_BT, batch.image_mask_BT
        added_BT = credit.added_advantage(current_BT.float(), entropy_BT, *masks)
    if algorithm.distillation_weight > 0:
        distilled_BT = distillation_advantage(algorithm.distillation_weight, batch.image_mask_BT)
        added_BT = distilled_BT if added_BT is None else added_BT + distilled_BT
    loss, metrics = eg_grpo_loss(
        LossBatch(
            logprob_BT=logprob_BT,
            reference_logprob_BT=reference_logprob_BT,
            cot_mask_BT=batch.cot_mask_BT,
            image_mask_BT=batch.image_mask_BT,
            advantage_B=batch.advantage_B,
            has_variance_B=batch.has_variance_B,
            entropy_BT=entropy_BT,
            behaviour_logprob_BT=behaviour_BT,
            importance_weight_BT=importance_BT,
            surrogate_weight_BT=batch.surrogate_weight_BT,
            kl_weight_BT=batch.kl_weight_BT,
            added_advantage_BT=added_BT,
        ),
        algorithm.objective(),
        counts,
        settled,
    )
    ratio_BT, mask_BT = exact_ratio(current_BT, recorded_BT), batch.mask_BT
    metrics |= recorded_ratio_metrics(ratio_BT[mask_BT])
    if cap is not None:
        capped_BT = (ratio_BT > cap) & ~has_ratio_B1
        metrics["ratio/capped"] = mean_metric(capped_BT[mask_BT])
    return loss, metrics


def recorded_ratio_metrics(ratio_N: Tensor) -> Metrics:
    """Mean and spread of the ratio to the recorded log-probs over valid tokens.

    For fresh trajectories they show how far the arithmetic of rollout and learner differs, for
    stale ones also how far the policy has moved. Ratios on both sides of 1 cancel out in the mean,
    and ratio/outside shows them. A ratio of NaN counts as outside.
    """
    inside_N = (ratio_N >= USUAL_RATIOS[0]) & (ratio_N <= USUAL_RATIOS[1])
    return {"ratio/mean": mean_metric(ratio_N), "ratio/outside": mean_metric(~inside_N)}


def trajectory_metrics(
    items: Sequence[TrainingTrajectory], weight_version: int, eos: int
) -> Metrics:
    """Metrics that need no forward pass, as sums over a rank's trajectories.

    The guidance metrics are means over image tokens, in nats: the recorded guided value minus the
    conditional one, which is 0 without guidance. cot_length/capped is the share of CoTs that the
    length cap cut, which are those that do not end with EOS.
    """
    trajectories = [item.trajectory for item in items]
    return {
        "guidance/logprob_gap": _gap(
            [(t.image_logprobs_guided, t.image_logprobs_conditional) for t in trajectories]
        ),
        "guidance/entropy_gap": _gap(
            [(t.image_entropies_guided, t.image_entropies_conditional) for t in trajectories]
        ),
        "cot_length/mean": mean_metric(torch.tensor([len(t.cot_ids) for t in trajectories])),
        "cot_length/capped": mean_metric(
            torch.tensor([eos not in t.cot_ids[-1:] for t in trajectories])
        ),
        "staleness/mean": mean_metric(
            torch.tensor([weight_version - t.weight_version for t in trajectories])
        ),
    }


def _gap(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> Tensor:
    """[sum, count] of guided minus conditional; both are 0 on a rank without trajectories."""
    gaps = [torch.from_numpy(guided - conditional) for guided, conditional in pairs]
    return mean_metric(torch.cat(gaps) if gaps else torch.zeros(0))


def mean_metric(value_N: Tensor) -> Tensor:
    """[sum, count] of some values."""
    total = value_N.double().sum()
    return torch.stack([total, torch.full_like(total, value_N.numel())])
