"""A learner rank's model with torch alone, for machines without DeepSpeed.

In float32 it does what ZeRO-0 does. With a ZeRO stage, which bfloat16 needs, weights have a float32
master copy, and each gradient is added in float32 as soon as it is computed. This is ZeRO-2 without
its buckets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from learner.logprob_module import LogprobModule
from learner.passes import Passes, adamw
from learner.rank_settings import LearnerSettings
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.trajectory_logprobs import LogprobKernel


class TorchModel(Passes):
    """Gradients and optimizer steps of the whole model in one process."""

    def __init__(
        self,
        policy: JanusPolicy,
        special: SpecialIds,
        settings: LearnerSettings,
        device: torch.device,
    ) -> None:
        super().__init__(policy, special, settings, device)
        self._max_grad_norm = settings.learner.max_grad_norm
        self._optimised = [p for p in policy.parameters() if p.requires_grad]
        self._masters: list[tuple[nn.Parameter, nn.Parameter]] = []  # live, master
        if settings.learner.zero_stage > 0:
            self._masters = [
                (live, nn.Parameter(live.detach().to(torch.float32, copy=True)))
                for live in self._optimised
            ]
            self._optimised = [master for _, master in self._masters]
        for live, master in self._masters:
            live.register_post_accumulate_grad_hook(_adds_to(master))
        self._optimizer = adamw(self._optimised, settings.learner)

    def with_kernels(self, kernels: Mapping[LogprobKernel, LogprobKernel]) -> TorchModel:
        """The same weights and optimizer, with other kernels in the place of the learner's two."""
        other = copy.copy(self)
        other._module = _exchanged(kernels, self._policy)
        if self.reference is not None:
            other._reference_module = _exchanged(kernels, self.reference)
        return other

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm = nn.utils.clip_grad_norm_(self._optimised, self._max_grad_norm)
        if grad_norm.isfinite():
            self._optimizer.step()
        self.forget_gradients()
        with torch.no_grad():
            for live, master in self._masters:
                live.copy_(master)
        return float(grad_norm)

    def forget_gradients(self) -> None:
        """Those of an update that broke off must not enter the next."""
        self._optimizer.zero_grad()

    def held(self) -> Iterator[Tensor]:
        """Every tensor that is alive between updates; some more than once."""
        yield from self._policy.parameters()
        yield from self._policy.buffers()
        if self.reference is not None:
            yield from self.reference.parameters()
            yield from self.reference.buffers()
        yield from self._optimised
        for state in self._optimizer.state.values():
            yield from state.values()


def _adds_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(live: Tensor) -> None:
        assert live.grad is not None
        gradient, live.grad = live.grad.float(), None
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    return hook


def _exchanged(
    kernels: Mapping[LogprobKernel, LogprobKernel], policy: JanusPolicy
) -> Callable[..., tuple[Tensor, Tensor]]:
    module = LogprobModule(policy)
    return lambda batch, kernel, *distribution: module(batch, kernels[kernel], *distribution)
