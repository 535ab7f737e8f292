"""One optimizer step of one rank, on any ``Passes``; Ray and DeepSpeed are not needed.

All ranks make the same calls in the same order, and exchange what depends on the whole batch.
Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learner.algorithm.loss_metrics import Metrics, add_metrics, finish_metrics
from learner.algorithm.methods.entropy_control import EntropyCredit
from learner.batch_loss import (
    BatchSize,
    ShareSize,
    micro_batch_loss,
    normalised_entropy,
    recorded_rows,
    trajectory_metrics,
)
from learner.collectives import exchange
from learner.entropy_controllers import EntropyControllers
from learner.group_weights import GroupStage, group_record
from learner.micro_batches import (
    MicroBatch,
    TrainingTrajectory,
    cut_micro_batches,
    micro_batch,
    training_trajectories,
)
from learner.passes import Passes
from learner.rank_settings import LearnerSettings
from learner.schedule import learning_rate
from learner.shares import GroupSlice
from policy.encoding import SpecialIds


class Updater:
    """Makes optimizer steps on a rank's shares of batches."""

    def __init__(self, model: Passes, settings: LearnerSettings, special: SpecialIds) -> None:
        self._model = model
        self._settings = settings
        self._algorithm = settings.algorithm
        self._method = settings.algorithm.objective().method
        self._special = special
        self.entropy_control: EntropyControllers | None = None
        if settings.algorithm.entropy_control is not None:
            self.entropy_control = EntropyControllers(
                settings.algorithm.entropy_control, model.vocab_sizes
            )

    def update(self, slices: Sequence[GroupSlice], weight_version: int) -> dict[str, float]:
        """One optimizer step on the batch whose slices the ranks hold; returns its metrics.

        If loss or gradient are not finite, the weights stay as they are and the metric
        ``updates/skipped`` is 1. Raises ValueError for an empty batch, and for a trajectory newer
        than the weights.
        """
        items = training_trajectories(slices, self._group_stage)
        batches = self.micro_batches(items, weight_version)
        size = _batch_size(items, batches, weight_version)
        entropies, settled = self._batch_stage(batches, size)
        credit = self._entropy_credit(size)
        parts = [trajectory_metrics(items, weight_version, self._special.eos)]
        loss_sum = 0.0
        for index in range(size.micro_batches):
            last = index == size.micro_batches - 1
            if index >= len(batches):
                self._model.backward_nothing(last)
                continue
            batch = batches[index]
            # The reference comes first: no pass may come between a forward pass and its backward.
            reference_BT = self._model.reference_logprobs(batch.tokens)
            logprob_BT, entropy_BT = self._model.logprobs(batch.tokens, self._entropy_from_training)
            if self._entropy_from_training:
                entropies[index] = self._normalised(entropy_BT, batch)
            loss, metrics = micro_batch_loss(
                batch,
                logprob_BT,
                reference_BT,
                entropies[index],
                self._algorithm,
                size.counts,
                settled,
                credit,
            )
            # A loss that is not finite could still have finite gradients, and the update would not
            # be skipped. Multiplying by NaN makes them NaN.
            self._model.backward(loss * torch.where(loss.isfinite(), 1.0, torch.nan), last)
            loss_sum += float(loss.detach())
            parts.append(metrics)
        rate = learning_rate(self._settings.learner, weight_version, self._settings.total_steps)
        grad_norm = self._model.step(rate)
        row = _whole_batch(parts, loss_sum) | {
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "staleness/max": size.staleness,
            "tokens/trained": size.counts.tokens,
            "updates/skipped": int(not math.isfinite(grad_norm)),
        }
        if settled is not None:
            row |= self._method.settled_metrics(settled)
        if self.entropy_control is not None:
            row |= self.entropy_control.metrics()
            if math.isfinite(grad_norm):
                self.entropy_control.move(row["entropy/cot/mean"], row["entropy/image/mean"])
        return row

    def micro_batches(
        self, items: Sequence[TrainingTrajectory], weight_version: int
    ) -> list[MicroBatch]:
        """The rank's share as tensors on the model's device."""
        guided = self._algorithm.trained_distribution == "guided"
        return [
            micro_batch(part, self._special, weight_version, guided, self._model.device)
            for part in cut_micro_batches(items, self._settings.learner.micro_batch_size)
        ]

    @property
    def _group_stage(self) -> GroupStage | None:
        """The weights of a group by the token method, if the method needs groups."""
        needs = self._method.needs
        if "group" not in needs:
            return None
        grid, vector_VD = self._model.image_grid, self._model.token_vectors
        return lambda trajectories, advantages: self._method.group_weights(
            group_record(trajectories, advantages, needs, grid, vector_VD)
        )

    @property
    def _entropy_from_training(self) -> bool:
        """Whether the training forward pass computes the entropies."""
        needs = self._method.needs
        return "entropy" in needs or (self.entropy_control is not None and "batch" not in needs)

    def _entropy_credit(self, size: BatchSize) -> EntropyCredit | None:
        """What entropy control adds to the token advantages of this step."""
        if self.entropy_control is None:
            return None
        image_tokens = size.counts.sequences * math.prod(self._model.image_grid)
        return self.entropy_control.credit(size.counts.tokens - image_tokens, image_tokens)

    def _batch_stage(
        self, batches: Sequence[MicroBatch], size: BatchSize
    ) -> tuple[list[Tensor], Any]:
        """Normalised entropies before the training pass, and what the method's batch stage settles.

        A batch stage needs the entropies under the weights being trained. Those recorded at
        rollout are that, unless a rollout is stale: then a pass computes them anew. A method
        without batch stage settles nothing, which is None. The recorded entropies are then used
        for the metrics alone; if the method needs entropies, the training pass replaces them.
        """
        entropies = [self._normalised(batch.recorded_entropy_BT, batch) for batch in batches]
        if "batch" not in self._method.needs:
            return entropies, None
        if size.stale:
            for index in range(size.micro_batches):
                batch = batches[index] if index < len(batches) else None
                entropy_BT = self._model.entropies(batch.tokens if batch else None)
                if batch:
                    entropies[index] = self._normalised(entropy_BT, batch)
        summaries = [
            self._method.summary(recorded_rows(batch, entropy_BT))
            for batch, entropy_BT in zip(batches, entropies, strict=True)
        ]
        everyones = [part for share in exchange(summaries) for part in share]
        return entropies, self._method.settle(everyones)

    def _normalised(self, entropy_BT: Tensor, batch: MicroBatch) -> Tensor:
        return normalised_entropy(entropy_BT, batch, *self._model.vocab_sizes)


def _batch_size(
    items: Sequence[TrainingTrajectory], batches: Sequence[MicroBatch], weight_version: int
) -> BatchSize:
    versions = [item.trajectory.weight_version for item in items]
    if versions and max(versions) > weight_version:
        raise ValueError(f"a trajectory of weights {max(versions)}, at {weight_version}")
    share = ShareSize(
        tokens=sum(item.trajectory.num_tokens for item in items),
        sequences=len(items),
        micro_batches=len(batches),
        staleness=max((weight_version - version for version in versions), default=0),
        stale=any(item.is_stale(weight_version) for item in items),
    )
    return BatchSize.of(exchange(share))


def _whole_batch(parts: Sequence[Metrics], loss_sum: float) -> dict[str, float]:
    """The metrics of the whole batch, under the names that they have in a metrics row."""
    share = {name: value.cpu() for name, value in add_metrics(parts).items()}
    shares = exchange((share, loss_sum))
    row = finish_metrics(add_metrics(metrics for metrics, _ in shares))
    return row | {"loss": sum(loss for _, loss in shares)}
