"""One learner rank: the update, the published weights and the checkpoint, with no Ray in sight.

All ranks make the same calls in the same order, and exchange what depends on the whole batch.
Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from learner import checkpoint
from learner.batch import (
    GroupSlice,
    MicroBatch,
    ScoredTrajectory,
    cut_micro_batches,
    micro_batch,
    scored_trajectories,
)
from learner.distributed import exchange, join
from learner.loss_metrics import Metrics, add_metrics, finish_metrics
from learner.model import TrainedModel
from learner.schedule import learning_rate
from learner.settings import LearnerSettings, Place
from learner.step import (
    BatchSize,
    ShareSize,
    bonus_lambda,
    micro_batch_budget_terms,
    micro_batch_loss,
    normalised_entropy,
    trajectory_metrics,
)
from policy.encoding import special_ids
from policy.errors import UserError
from policy.generation_defaults import save_defaults
from policy.loading import load_policy
from policy.probe import WeightReceipt
from policy.weights import WeightBuckets, checksum, pack, tensors_digest


class LearnerRank:
    """One rank of a data-parallel learner. ``weight_version`` counts the updates of the run."""

    def __init__(self, settings: LearnerSettings, place: Place) -> None:
        """Join the group and load the checkpoint; blocks until every rank has."""
        self._settings = settings
        self._algorithm = settings.algorithm
        self._place = place
        device = join(place, settings.learner)
        policy = load_policy(settings.checkpoint, getattr(torch, settings.learner.dtype))
        self._special = special_ids(
            PreTrainedTokenizerFast.from_pretrained(settings.checkpoint, local_files_only=True)
        )
        self._vocab_sizes = policy.text_vocab_size, policy.num_codes
        self._guided = self._algorithm.trained_distribution == "guided"
        # Before DeepSpeed may shard it; rank 0 writes and checks manifests.
        self._reference = tensors_digest(policy.trained_parameters()) if place.rank == 0 else ""
        self._model = TrainedModel(policy, self._special, settings, device)
        self.weight_version = 0

    # The update

    def update(self, slices: Sequence[GroupSlice]) -> dict[str, float]:
        """One optimizer step on the batch whose slices the ranks hold; the batch's metrics.

        Raises ValueError for an empty batch or a trajectory newer than the weights, and
        FloatingPointError when the gradient is not finite: these weights are then lost.
        """
        scored = scored_trajectories(slices)
        batches = self._micro_batches(scored)
        size = self._batch_size(scored, batches)
        entropies, lambda_b = self._calibrate(batches, size)
        parts = [trajectory_metrics(scored, self.weight_version)]
        loss_sum = 0.0
        for index in range(size.micro_batches):
            last = index == size.micro_batches - 1
            if index >= len(batches):
                self._model.backward_nothing(last)
                continue
            batch = batches[index]
            # First, so that nothing comes between the training pass and its backward pass.
            reference_BT = self._model.reference_logprobs(batch.tokens)
            logprob_BT, entropy_BT = self._model.scores(batch.tokens, self._entropy_from_training)
            if self._entropy_from_training:
                entropies[index] = self._normalised(entropy_BT, batch)
            loss, metrics = micro_batch_loss(
                batch,
                logprob_BT,
                reference_BT,
                entropies[index],
                self._algorithm,
                size.counts,
                lambda_b,
            )
            self._model.backward(loss, last)
            loss_sum += float(loss.detach())
            parts.append(metrics)
        rate = learning_rate(
            self._settings.learner, self.weight_version, self._settings.total_steps
        )
        grad_norm = self._model.step(rate)
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"gradient norm {grad_norm} in update {self.weight_version}")
        self.weight_version += 1
        row = self._whole_batch(parts, loss_sum)
        row |= {"grad_norm": grad_norm, "learning_rate": rate, "tokens/trained": size.counts.tokens}
        return row if lambda_b is None else row | {"lambda_b": lambda_b}

    @property
    def _entropy_from_training(self) -> bool:
        """Whether entropies are read off the training forward pass."""
        return self._algorithm.modalities != "none" and not self._algorithm.calibrated

    def _micro_batches(self, scored: Sequence[ScoredTrajectory]) -> list[MicroBatch]:
        return [
            micro_batch(part, self._special, self.weight_version, self._guided, self._model.device)
            for part in cut_micro_batches(scored, self._settings.learner.micro_batch_size)
        ]

    def _batch_size(
        self, scored: Sequence[ScoredTrajectory], batches: Sequence[MicroBatch]
    ) -> BatchSize:
        versions = [item.trajectory.weight_version for item in scored]
        if versions and max(versions) > self.weight_version:
            raise ValueError(f"a trajectory of weights {max(versions)}, at {self.weight_version}")
        share = ShareSize(
            tokens=sum(item.trajectory.num_tokens for item in scored),
            sequences=len(scored),
            micro_batches=len(batches),
            stale=any(version < self.weight_version for version in versions),
        )
        return BatchSize.of(exchange(share))

    def _calibrate(
        self, batches: Sequence[MicroBatch], size: BatchSize
    ) -> tuple[list[Tensor], float | None]:
        """Normalised entropies known before the training pass, and lambda_B where a rule has one.

        Recorded at rollout they are those of the weights being trained, unless some rollouts are
        stale. Without calibration they serve the metrics of plain GRPO, or are replaced.
        """
        entropies = [self._normalised(batch.recorded_entropy_BT, batch) for batch in batches]
        if not self._algorithm.calibrated:
            return entropies, None
        if size.stale:
            for index in range(size.micro_batches):
                batch = batches[index] if index < len(batches) else None
                entropy_BT = self._model.entropies(batch.tokens if batch else None)
                if batch:
                    entropies[index] = self._normalised(entropy_BT, batch)
        terms = [
            micro_batch_budget_terms(batch, entropy_BT, self._algorithm)
            for batch, entropy_BT in zip(batches, entropies, strict=True)
        ]
        everyones = [part for share in exchange(terms) for part in share]
        return entropies, bonus_lambda(everyones, self._algorithm)

    def _normalised(self, entropy_BT: Tensor, batch: MicroBatch) -> Tensor:
        return normalised_entropy(entropy_BT, batch, *self._vocab_sizes)

    def _whole_batch(self, parts: Sequence[Metrics], loss_sum: float) -> dict[str, float]:
        """Metrics of all ranks together, under the names of a metrics row."""
        share = {name: value.cpu() for name, value in add_metrics(parts).items()}
        shares = exchange((share, loss_sum))
        row = finish_metrics(add_metrics(metrics for metrics, _ in shares))
        return row | {"loss": sum(loss for _, loss in shares)}

    # Weights

    def publish(self) -> tuple[WeightReceipt, WeightBuckets | None]:
        """The trained part for the rollout workers, and the answer that each must give to it.

        Every rank must call it; rank 0 alone returns buckets.
        """
        probe_logprob = self.probe()
        if self._place.rank > 0:
            deque(self._model.trained_tensors(), maxlen=0)
            return WeightReceipt(self.weight_version, "", probe_logprob), None
        buckets = pack(self._model.trained_tensors())
        return WeightReceipt(self.weight_version, checksum(buckets), probe_logprob), buckets

    def probe(self) -> float:
        """Mean log-prob of the fixed probe under the live weights; every rank must call it."""
        return self._model.probe_logprob()

    # Checkpoints

    def save(self, folder: Path) -> None:
        """Write a checkpoint (see ``learner.checkpoint``); every rank must call it.

        Nothing in the folder counts until the manifest is there, which is written last.
        """
        if self._place.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / checkpoint.MANIFEST).unlink(missing_ok=True)
            (folder / checkpoint.RNG).mkdir(exist_ok=True)
        exchange(None)
        self._model.save_state(folder / checkpoint.STATE)
        save_file({"cpu": torch.get_rng_state()}, self._rng_file(folder))
        self._write_model(folder)
        exchange(None)
        if self._place.rank == 0:
            checkpoint.write_manifest(folder, self._manifest())
        exchange(None)

    def _write_model(self, folder: Path) -> None:
        """model/ and, if one is trained, adapter/; every rank must call it."""
        tensors, adapter = self._model.model_tensors(), self._model.adapter
        if self._place.rank > 0:
            deque(tensors, maxlen=0)
        else:
            model = folder / checkpoint.MODEL
            checkpoint.export_model(model, self._settings.checkpoint, self._model.shell(), tensors)
            save_defaults(model, self._settings.generation_defaults)
        if adapter is not None:
            own = dict(adapter.tensors())
            if self._place.rank == 0:
                adapter.write(folder / checkpoint.ADAPTER, own)

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint of this run; every rank must call it.

        The next updates are bitwise those that an uninterrupted run would have made. Raises
        ``UserError`` on every rank when the checkpoint is damaged or of another kind of run,
        before anything in it is unpickled.
        """
        manifest, problem = None, None
        if self._place.rank == 0:
            try:
                manifest = checkpoint.verified_manifest(folder)
                checkpoint.check_resumable(folder, manifest, self._manifest())
            except UserError as error:
                problem = str(error)
        manifest, problem = exchange((manifest, problem))[0]
        if problem is not None or manifest is None:
            raise UserError(problem or f"checkpoint {folder} has no manifest")
        self._model.load_state(folder / checkpoint.STATE)
        if self._rng_file(folder).exists():
            torch.set_rng_state(load_file(self._rng_file(folder))["cpu"])
        self.weight_version = manifest.weight_version

    def _rng_file(self, folder: Path) -> Path:
        return folder / checkpoint.RNG / f"rank-{self._place.rank}.safetensors"

    def _manifest(self) -> checkpoint.Manifest:
        config = self._settings.learner
        return checkpoint.Manifest(
            weight_version=self.weight_version,
            world_size=self._place.world_size,
            zero_stage=config.zero_stage,
            dtype=config.dtype,
            reference=self._reference,
            lora=config.lora,
        )

    def close(self) -> None:
        """Release what DeepSpeed holds globally; the process group stays."""
        self._model.close()
