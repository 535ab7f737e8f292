"""A batch of the objective, and its loss with the gradient."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.algorithm.objective import BatchCounts, LossBatch, ObjectiveSettings, eg_grpo_loss

COT_COLUMNS, IMAGE_COLUMNS = 6, 8


def example(cot_lengths: tuple[int, ...] = (6, 0, 1, 2, 4), seed: int = 0) -> LossBatch:
    """Trajectories of unequal CoTs, empty and one-token ones among them; a stale behaviour."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = len(cot_lengths), COT_COLUMNS + IMAGE_COLUMNS
    column_T = torch.arange(columns)
    logprob_BT = -3 * torch.rand(rows, columns, generator=generator)
    return LossBatch(
        logprob_BT=logprob_BT,
        reference_logprob_BT=logprob_BT + 0.3 * torch.randn(rows, columns, generator=generator),
        cot_mask_BT=column_T < torch.tensor(cot_lengths)[:, None],
        image_mask_BT=(column_T >= COT_COLUMNS).expand(rows, columns),
        advantage_B=torch.randn(rows, generator=generator),
        has_variance_B=torch.ones(rows, dtype=torch.bool),
        entropy_BT=torch.rand(rows, columns, generator=generator),
        behaviour_logprob_BT=logprob_BT + 0.3 * torch.randn(rows, columns, generator=generator),
    )


def counts_of(batch: LossBatch) -> BatchCounts:
    mask_BT = batch.cot_mask_BT | batch.image_mask_BT
    return BatchCounts(tokens=int(mask_BT.sum()), sequences=int(mask_BT.any(1).sum()))


def loss_and_gradient(
    batch: LossBatch, objective: ObjectiveSettings, counts: BatchCounts | None = None
) -> tuple[Tensor, Tensor]:
    logprob_BT = batch.logprob_BT.clone().requires_grad_()
    loss, _ = eg_grpo_loss(
        replace(batch, logprob_BT=logprob_BT), objective, counts or counts_of(batch), 0.4
    )
    (gradient_BT,) = torch.autograd.grad(loss, logprob_BT)
    return loss.detach(), gradient_BT
