"""The forward passes of an update: the trained policy's, and its frozen reference's.

Who carries gradients and weights over, DeepSpeed or another, is left to a subclass.
Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from learner.adapter import Adapter
from learner.config import LearnerConfig
from learner.logprob_module import LogprobModule, entropy_kernel, logprob_kernel
from learner.rank_settings import LearnerSettings
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.probe import probe_batch
from policy.sequences import TrajectoryBatch


class Passes(ABC):
    """Forward passes of a policy in training and of its reference, for an update."""

    def __init__(
        self,
        policy: JanusPolicy,
        special: SpecialIds,
        settings: LearnerSettings,
        device: torch.device,
    ) -> None:
        config = settings.learner
        guided = settings.algorithm.trained_distribution == "guided"
        sampling = settings.sampling
        self._distribution = sampling.temperature, sampling.guidance_scale if guided else None
        self.device = device
        self.vocab_sizes = policy.text_vocab_size, policy.num_codes
        policy.to(device)
        self._probe = probe_batch(policy, special)
        self.adapter: Adapter | None = None
        self._compares = settings.algorithm.kl_beta > 0.0  # with a reference; else it needs none
        self.reference: JanusPolicy | None = None  # with an adapter, the policy without it
        if config.lora is not None:
            self.adapter = Adapter(policy, config.lora, settings.checkpoint, settings.seed)
        elif self._compares:
            self.reference = _reference(policy, config.zero_stage)
            self._reference_module: Callable[..., tuple[Tensor, Tensor]] = LogprobModule(
                self.reference
            )
        if config.gradient_checkpointing:
            _recompute_activations(policy)
        self._policy = policy
        # A subclass may put a wrapper of it in its place.
        self._module: Callable[..., tuple[Tensor, Tensor]] = LogprobModule(policy)

    def logprobs(self, batch: TrajectoryBatch, with_entropy: bool) -> tuple[Tensor, Tensor]:
        """(logprob_BT with gradient, entropy_BT, NaN unless asked for), in nats."""
        kernel = entropy_kernel if with_entropy else logprob_kernel
        return self._module(batch, kernel, *self._distribution)

    @torch.no_grad()
    def entropies(self, batch: TrajectoryBatch | None) -> Tensor:
        """entropy_BT in nats under the weights as they stand.

        ``None`` stands in for a batch on a rank that has none left: collectives must match.
        """
        return self.logprobs(batch or self._probe, with_entropy=True)[1]

    @torch.no_grad()
    def reference_logprobs(self, batch: TrajectoryBatch) -> Tensor | None:
        """logprob_BT of the same tokens under the frozen reference; None without a KL term."""
        if not self._compares:
            return None
        if self.adapter is None:
            return self._reference_module(batch, logprob_kernel, *self._distribution)[0]
        with self.adapter.off():
            return self.logprobs(batch, with_entropy=False)[0]

    def backward_nothing(self, last: bool) -> None:
        """Stand in for a micro-batch on a rank that has none left: collectives must match."""
        if self.adapter is not None:
            self.reference_logprobs(self._probe)
        logprob_BT, _ = self.logprobs(self._probe, with_entropy=False)
        self.backward(logprob_BT.sum() * 0.0, last)

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradients; ``last`` reduces the sum over ranks."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping.

        A norm that is not finite, on one rank or several, is so on all. Nothing is updated then:
        weights and optimizer stay as they are, to the bit, and the gradients are dropped.
        """


def adamw(parameters: Iterable[nn.Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """The optimizer of what is trained among ``parameters``."""
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True if config.offload_optimizer else None,
    )


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
