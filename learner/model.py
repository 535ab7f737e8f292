"""The trained policy inside DeepSpeed, and its frozen reference outside.

Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from learner.adapter import Adapter
from learner.distributed import deepspeed_settings, gathered
from learner.scoring import ScoringModule, entropy_kernel, logprob_kernel
from learner.settings import LearnerSettings
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.probe import probe_batch
from policy.scoring import plain_kernel
from policy.sequences import TrajectoryBatch

_TAG = "deepspeed"


class TrainedModel:
    """Scores, gradients, optimizer steps and state of one rank's share of the model."""

    def __init__(
        self,
        policy: JanusPolicy,
        special: SpecialIds,
        settings: LearnerSettings,
        device: torch.device,
    ) -> None:
        config = self._config = settings.learner
        guided = settings.algorithm.trained_distribution == "guided"
        self._distribution = settings.guidance_scale if guided else None, settings.temperature
        self.device = device
        policy.to(device)
        self._probe = probe_batch(policy, special)
        self.adapter: Adapter | None = None
        self.reference: JanusPolicy | None = None  # with an adapter, the policy without it
        if config.lora is not None:
            self.adapter = Adapter(policy, config.lora, settings.checkpoint, settings.seed)
        else:
            self.reference = _reference(policy, config.zero_stage)
            self._reference_scoring = ScoringModule(self.reference)
        if config.gradient_checkpointing:
            _recompute_activations(policy)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in policy.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True if config.offload_optimizer else None,
        )
        self._engine: Any = deepspeed.initialize(
            model=ScoringModule(policy),
            optimizer=optimizer,
            config=deepspeed_settings(config, policy.model.lm_head.in_features),
            dist_init_required=False,
        )[0]

    # Forward

    def scores(self, batch: TrajectoryBatch, with_entropy: bool) -> tuple[Tensor, Tensor]:
        """(logprob_BT with gradient, entropy_BT, NaN unless asked for), in nats."""
        kernel = entropy_kernel if with_entropy else logprob_kernel
        return self._engine(batch, kernel, *self._distribution)

    @torch.no_grad()
    def entropies(self, batch: TrajectoryBatch | None) -> Tensor:
        """entropy_BT in nats under the weights as they stand.

        ``None`` stands in for a batch on a rank that has none left: collectives must match.
        """
        return self.scores(batch or self._probe, with_entropy=True)[1]

    @torch.no_grad()
    def reference_logprobs(self, batch: TrajectoryBatch) -> Tensor:
        """logprob_BT of the same tokens under the frozen reference."""
        if self.adapter is None:
            return self._reference_scoring(batch, logprob_kernel, *self._distribution)[0]
        with self.adapter.off():
            return self.scores(batch, with_entropy=False)[0]

    @torch.no_grad()
    def probe_logprob(self) -> float:
        """``policy.probe.probe_logprob`` of what is published, from weights sharded or not."""
        batch = self._probe
        with self.adapter.merged() if self.adapter else nullcontext():
            logprob_BT, _ = self._engine(batch, plain_kernel)
        return float(logprob_BT.double().sum() / batch.mask_BT.sum())

    # Backward

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradients; ``last`` reduces the sum over ranks.

        DeepSpeed averages over ranks what is a sum here.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)

    def backward_nothing(self, last: bool) -> None:
        """Stand in for a micro-batch on a rank that has none left: collectives must match."""
        if self.adapter is not None:
            self.reference_logprobs(self._probe)
        self._engine.set_gradient_accumulation_boundary(last)
        logprob_BT, _ = self.scores(self._probe, with_entropy=False)
        self._engine.backward(logprob_BT.sum() * 0.0, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm = None
        if self._config.zero_stage == 0:
            # Parameters without gradient are passed over.
            parameters = self._policy.parameters()
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        self._engine.step()
        if grad_norm is None:
            grad_norm = self._engine.get_global_grad_norm()
        return float(grad_norm)

    # State

    @property
    def _policy(self) -> JanusPolicy:
        return self._engine.module.policy

    def shell(self) -> JanusForConditionalGeneration:
        """The model without weights, on the meta device; they are ``model_tensors``."""
        model = self._policy.model
        with torch.device("meta"):
            shell = JanusForConditionalGeneration(model.config)
        nn.Module.to(shell, model.dtype)
        shell.generation_config = model.generation_config
        return shell

    def trained_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors of what rollout workers load; every rank must exhaust it."""
        return self._full(self._policy.trained_parameters())

    def model_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors of the whole model, frozen parts too; every rank must exhaust it."""
        return self._full(self._policy.model.named_parameters())

    def _full(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
        if self.adapter is None:
            return gathered(parameters)
        return self.adapter.merged_tensors(parameters, self.device)

    def save_state(self, folder: Path) -> None:
        """Write trained weights and optimizer; every rank must call it."""
        self._engine.save_checkpoint(
            str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True
        )
        if dist.get_rank() == 0:
            for script in folder.glob("*.py"):  # conversion tools that DeepSpeed adds
                script.unlink()

    def load_state(self, folder: Path) -> None:
        """Read what ``save_state`` wrote. It unpickles: verify the files first."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        if path is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")

    def close(self) -> None:
        """Release what DeepSpeed holds globally."""
        self._engine.destroy()


def _reference(policy: JanusPolicy, zero_stage: int) -> JanusPolicy:
    """A frozen copy, made while every parameter is whole: ZeRO-3 leaves nothing to share."""
    if zero_stage == 3:
        return copy.deepcopy(policy).requires_grad_(False)
    return policy.frozen_reference()


def _recompute_activations(policy: JanusPolicy) -> None:
    """Gradient checkpointing of the decoder layers.

    transformers does it in training mode alone, which the policy never is in. A decoder layer's own
    flag, without its children's, switches that and nothing else.
    """
    language_model = policy.model.model.language_model
    language_model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in language_model.layers:
        layer.training = True
