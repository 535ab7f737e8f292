"""One learner rank without Ray: updates, published weights and checkpoints.

All ranks must make the same calls in the same order.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from learner import step_checkpoint as checkpoint
from learner.collectives import exchange, peers_watched, undivided
from learner.deepspeed_passes import DeepSpeedPasses
from learner.distributed import join
from learner.rank_settings import LearnerSettings, Place
from learner.shares import GroupSlice
from learner.update import Updater
from policy.checkpoint.generation_defaults import GenerationDefaults, save_defaults
from policy.checkpoint.loading import load_policy
from policy.checkpoint.tokenizer import load_tokenizer
from policy.disk import writing
from policy.encoding import special_ids
from policy.errors import UserError
from policy.receipt import WeightReceipt
from policy.slots import TensorSlot
from policy.types import FloatArray
from policy.weights import Bucket, OutgoingWeights, planned_slots, tensors_digest


class LearnerRank:
    """One rank of a data-parallel learner. ``weight_version`` counts the updates of the run."""

    def __init__(self, settings: LearnerSettings, place: Place) -> None:
        """Join the process group and load the checkpoint; returns when every rank has."""
        self._settings = settings
        self._place = place
        device = join(place, settings.learner)
        policy = load_policy(settings.checkpoint, getattr(torch, settings.dtype))
        special = special_ids(load_tokenizer(settings.checkpoint))
        # Computed before DeepSpeed may shard the weights, on the rank that writes and checks
        # manifests.
        self._reference = tensors_digest(policy.trained_parameters()) if place.rank == 0 else ""
        self._model = DeepSpeedPasses(policy, special, settings, device)
        self._updater = Updater(self._model, settings, special)
        self.weight_version = 0

    # The update

    def update(self, slices: Sequence[GroupSlice]) -> dict[str, float]:
        """One optimizer step on the batch whose slices the ranks hold; see ``Updater.update``."""
        row = self._updater.update(slices, self.weight_version)
        self.weight_version += 1
        return row

    # Weights

    def slots(self) -> tuple[TensorSlot, ...]:
        """What will be in the buckets that ``publish`` yields. They are equal at every push."""
        return planned_slots(self._model.trained_tensors(undivided))

    def publish(self) -> Generator[Bucket, None, WeightReceipt]:
        """Yield the buckets of the trained weights; return the receipt.

        Each rollout worker must answer with this receipt. Every rank must call it and read it to
        the end. Only rank 0 yields any bucket, which may be a view of a parameter.
        """
        tensors = self._model.trained_tensors()
        if self._place.rank > 0:
            deque(tensors, maxlen=0)
            checksum = ""
        else:
            outgoing = OutgoingWeights(tensors, self.slots())
            yield from outgoing
            checksum = outgoing.checksum
        # The probe comes last, so that rollout workers load the weights meanwhile.
        return WeightReceipt(self.weight_version, checksum, self.probe())

    def probe(self) -> FloatArray:
        """Log-probs of the fixed probe under the present weights; every rank must call it."""
        return self._model.probe_logprobs()

    # Checkpoints

    def save(self, folder: Path) -> None:
        """Write a checkpoint (see ``learner.step_checkpoint``); every rank must call it.

        The manifest is written last, and a folder without one is no checkpoint. Raises
        ``NotWritten``, and ``PeerLost`` when another rank died meanwhile.
        """
        # torch and safetensors raise these when the disk is full.
        with writing(folder, RuntimeError, SafetensorError), peers_watched():
            if self._place.rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / checkpoint.MANIFEST).unlink(missing_ok=True)
            exchange(None)
            self._model.save_state(folder / checkpoint.STATE)
            self.write_model(folder)
            exchange(None)
            if self._place.rank == 0:
                if self._updater.entropy_control is not None:
                    self._updater.entropy_control.save(folder)
                checkpoint.write_manifest(folder, self._manifest())
            exchange(None)

    def write_model(self, folder: Path) -> None:
        """Write model/ and, if an adapter is trained, adapter/; every rank must call it."""
        tensors, adapter = self._model.model_tensors(), self._model.adapter
        if self._place.rank > 0:
            deque(tensors, maxlen=0)
        else:
            settings, model = self._settings, folder / checkpoint.MODEL
            checkpoint.export_model(model, settings.checkpoint, self._model.shell(), tensors)
            save_defaults(
                model,
                GenerationDefaults.of(settings.template, settings.instruction, settings.sampling),
            )
        if adapter is not None:
            own = dict(adapter.tensors())
            if self._place.rank == 0:
                adapter.write(folder / checkpoint.ADAPTER, own)

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint of this run; every rank must call it.

        The next updates are bitwise those that an uninterrupted run would have made. With another
        number of ranks they differ by rounding, because gradients are added in another order. If
        the checkpoint is damaged or belongs to another kind of run, every rank raises ``UserError``
        before anything in it is unpickled. Raises ``NotWritten`` when the state must be converted
        for another number of ranks and cannot be written.
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
        if self._updater.entropy_control is not None:
            self._updater.entropy_control.load(folder, manifest.files)
        state, universal = folder / checkpoint.STATE, checkpoint.universal_folder(folder)
        self._remove(universal)  # a load that was killed may have left it
        if manifest.zero_stage == 0 or manifest.world_size == self._place.world_size:
            self._model.load_state(state)
        else:
            try:
                if self._place.rank == 0:
                    self._model.write_universal_state(state, universal)
                exchange(None)
                self._model.load_universal_state(universal)
                exchange(None)
            finally:
                self._remove(universal)
        self.weight_version = manifest.weight_version

    def _remove(self, folder: Path) -> None:
        if self._place.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)

    def _manifest(self) -> checkpoint.Manifest:
        config = self._settings.learner
        return checkpoint.Manifest(
            weight_version=self.weight_version,
            world_size=self._place.world_size,
            zero_stage=config.zero_stage,
            dtype=self._settings.dtype,
            reference=self._reference,
            lora=config.lora,
        )

    def close(self) -> None:
        """Release DeepSpeed's global state. The process group stays."""
        self._model.close()
