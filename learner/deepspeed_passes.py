"""The forward and backward passes of an update, with the trained policy inside DeepSpeed.

The frozen reference stays outside of it.

Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from learner.collectives import Read, gathered
from learner.distributed import deepspeed_settings
from learner.logprob_module import LogprobModule
from learner.passes import Passes, adamw
from learner.plain_path import plain_path
from learner.rank_settings import LearnerSettings
from learner.universal_state import write_universal
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.trajectory_logprobs import plain_kernel
from policy.types import FloatArray

_TAG = "deepspeed"


class DeepSpeedPasses(Passes):
    """The forward and backward passes of one rank, its optimizer steps and its state."""

    def __init__(
        self,
        policy: JanusPolicy,
        special: SpecialIds,
        settings: LearnerSettings,
        device: torch.device,
    ) -> None:
        super().__init__(policy, special, settings, device)
        config = self._config = settings.learner
        # With bfloat16 DeepSpeed prints the process's memory four times.
        with redirect_stdout(io.StringIO()):
            self._engine: Any = deepspeed.initialize(
                model=LogprobModule(policy),
                optimizer=adamw(policy.parameters(), config),
                config=deepspeed_settings(config, settings.dtype, policy.model.lm_head.in_features),
                dist_init_required=False,
            )[0]
        self._module = self._engine

    @torch.no_grad()
    def probe_logprobs(self) -> FloatArray:
        """``policy.probe.probe_logprobs`` of the weights that are published, sharded or not."""
        batch = self._probe
        with self.adapter.merged() if self.adapter else nullcontext():
            logprob_BT, _ = self._engine(batch, plain_kernel, 1.0, None)
        return logprob_BT[batch.mask_BT].cpu().numpy()

    # Backward

    def backward(self, loss: Tensor, last: bool) -> None:
        """See ``Passes.backward``.

        DeepSpeed averages gradients over ranks. The loss is multiplied by their number, because
        the shares of the ranks are to be added.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """See ``Passes.step``.

        At ZeRO 1 to 3 DeepSpeed itself skips an update whose gradient is not finite, and reports an
        infinite norm. At ZeRO 0 it would update, so the norm is computed and checked here.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._config.zero_stage > 0:
            self._engine.step()
            grad_norm = float(self._engine.get_global_grad_norm())
            if not math.isfinite(grad_norm):
                # At ZeRO 1 and 2 with offload, DeepSpeed keeps these gradients and may add the
                # next ones to them.
                sums = getattr(self._engine.optimizer, "averaged_gradients", {})
                sums.update(dict.fromkeys(sums))
            return grad_norm
        # clip_grad_norm_ ignores parameters that have no gradient.
        parameters = self._policy.parameters()
        grad_norm = float(nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm))
        if math.isfinite(grad_norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return grad_norm

    # State

    def shell(self) -> JanusForConditionalGeneration:
        """The model on the meta device, without the weights that ``model_tensors`` returns."""
        model = self._policy.model
        with torch.device("meta"):
            shell = JanusForConditionalGeneration(model.config)
        nn.Module.to(shell, model.dtype)
        shell.generation_config = model.generation_config
        return shell

    def trained_tensors(self, read: Read = gathered) -> Iterator[tuple[str, Tensor]]:
        """Full tensors that rollout workers are sent; every rank must exhaust it.

        These are the trained parameters, or the factors of the adapter that is trained instead.
        ``read`` gives the tensors of parameters. With ``undivided`` no rank waits for another.
        """
        if self.adapter is not None:
            return self.adapter.factors(read)
        return read(self._policy.trained_parameters())

    def model_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors of the whole model with its frozen parts; every rank must exhaust it."""
        parameters = self._policy.model.named_parameters()
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
        """Read what ``save_state`` wrote with as many ranks; every rank must call it.

        Verify the files first: unpickling one can run code.
        """
        with plain_path(folder) as plain, redirect_stdout(io.StringIO()):  # it prints names
            path, _ = self._engine.load_checkpoint(plain, tag=_TAG, load_module_strict=False)
        if path is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")

    def write_universal_state(self, folder: Path, universal: Path) -> None:
        """Convert what ``save_state`` wrote, for ``load_universal_state``; one rank alone calls it.

        Verify the files first: unpickling one can run code.
        """
        write_universal(folder / _TAG, universal / _TAG)

    def load_universal_state(self, universal: Path) -> None:
        """Read the converted state of any number of ranks; every rank must call it."""
        config, logger = self._engine._config, logging.getLogger("DeepSpeed")
        level = logger.level
        # Without tensor parallelism DeepSpeed warns that it found none.
        logger.setLevel(logging.ERROR)
        # This is a setting of the engine, but DeepSpeed reads it only while it loads.
        config.load_universal_checkpoint = True
        try:
            self.load_state(universal)
        finally:
            config.load_universal_checkpoint = False
            logger.setLevel(level)
        # At ZeRO 3 DeepSpeed gives all groups of parameters the same step counter, and the update
        # of each group would count it up. The converted counter is on the CPU, and a fused update
        # wants it where the parameter is.
        for parameter, state in self._engine.optimizer.optimizer.state.items():
            state["step"] = state["step"].to(parameter.device, copy=True)

    def close(self) -> None:
        """Release DeepSpeed's global state."""
        self._engine.destroy()
