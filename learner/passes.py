"""The forward passes of an update: those of the trained policy and of its frozen reference.

A subclass does the backward passes and the optimizer step, by DeepSpeed or otherwise.
Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from learner.adapter import Adapter
from learner.config import LearnerConfig
from learner.group_weights import token_vectors
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
        self.image_grid = policy.image_grid
        policy.to(device)
        method = settings.algorithm.objective().method
        method.check(policy.num_image_tokens)
        self.token_vectors = token_vectors(policy, method.needs)
        self._probe = probe_batch(policy, special)
        self.adapter: Adapter | None = None
        self._compares = settings.algorithm.kl_beta > 0.0  # only the KL term needs a reference
        # None with an adapter: then the reference is the policy with its adapter switched off.
        self.reference: JanusPolicy | None = None
        if config.lora is not None:
            self.adapter = Adapter(policy, config.lora, settings.checkpoint, settings.seed)
        elif self._compares:
            # ZeRO-3 shards the policy's parameters, also the frozen ones.
            self.reference = policy.frozen_reference(whole=config.zero_stage == 3)
            self._reference_module: Callable[..., tuple[Tensor, Tensor]] = LogprobModule(
                self.reference
            )
        if config.gradient_checkpointing:
            _recompute_activations(policy)
        self._policy = policy
        # A subclass may replace it by a module that wraps it.
        self._module: Callable[..., tuple[Tensor, Tensor]] = LogprobModule(policy)

    def logprobs(self, batch: TrajectoryBatch, with_entropy: bool) -> tuple[Tensor, Tensor]:
        """(logprob_BT, entropy_BT) in nats. Log-probs have gradients; entropies that are not asked
        for are NaN."""
        kernel = entropy_kernel if with_entropy else logprob_kernel
        return self._module(batch, kernel, *self._distribution)

    @torch.no_grad()
    def entropies(self, batch: TrajectoryBatch | None) -> Tensor:
        """entropy_BT in nats under the present weights.

        A rank that has no micro-batch left gives ``None``. It then runs a pass over the probe, so
        that its collectives match those of the other ranks.
        """
        return self.logprobs(batch or self._probe, with_entropy=True)[1]

    @torch.no_grad()
    def reference_logprobs(self, batch: TrajectoryBatch) -> Tensor | None:
        """logprob_BT of the batch under the frozen reference; None without a KL term."""
        if not self._compares:
            return None
        if self.adapter is None:
            return self._reference_module(batch, logprob_kernel, *self._distribution)[0]
        with self.adapter.off():
            return self.logprobs(batch, with_entropy=False)[0]

    def backward_nothing(self, last: bool) -> None:
        """Run the passes of a micro-batch, with gradients of 0, on a rank that has none left.

        Its collectives then match those of the other ranks.
        """
        if self.adapter is not None:
            self.reference_logprobs(self._probe)
        logprob_BT, _ = self.logprobs(self._probe, with_entropy=False)
        self.backward(logprob_BT.sum() * 0.0, last)

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradients. After the ``last`` one they are summed over ranks."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clip the gradients, update the weights, clear the gradients.

        Returns the norm of all gradients before clipping. If the gradients of any rank are not
        finite, neither is the norm on any rank. The gradients are dropped then, and weights and
        optimizer stay as they are, to the bit.
        """


def adamw(parameters: Iterable[nn.Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """The optimizer of those ``parameters`` that are trained."""
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        # Where AdamW is not fused, it needs memory for another copy of its averages while it works.
        fused=True if config.offload_optimizer or config.device == "cuda" else None,
    )


def _recompute_activations(policy: JanusPolicy) -> None:
    """Gradient checkpointing of the decoder layers.

    transformers recomputes activations only in training mode, and the policy is never in it. So
    the ``training`` flag of each decoder layer is set, but not those of its children: this switches
    the recomputation on and changes nothing else.
    """
    language_model = policy.model.model.language_model
    language_model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in language_model.layers:
        layer.training = True
