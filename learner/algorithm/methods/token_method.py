"""The interface of a token method: it gives every token an advantage and a weight of its KL term.

A method has three stages, and each may be left out. The group stage sees one whole group, and
``summary`` and ``settle`` see the whole batch. ``terms`` sees one micro-batch, and the results of
the other stages. No stage carries a gradient.

Shape legend: G = surviving trajectories of a group, N = image tokens, R C = rows and columns of the
image grid, V = image codebook, D = vector size, B = trajectories, T = padded token columns (CoT
first, then image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.loss_metrics import Metrics

# What a method reads beside advantages and masks.
Need = Literal[
    "entropy",  # entropies of the trained distribution, from the training pass
    "batch",  # the batch stage, with these entropies of the whole batch before the first pass
    "reference",  # log-probs under the frozen reference
    "group",  # the group stage
    "codebook",  # in the group stage: the vectors of image tokens in the codebook
    "aligned_embedding",  # in the group stage: the vectors that the language model reads for them
    "unconditional",  # in the group stage: log-probs that were recorded without the prompt
]

Summary = TypeVar("Summary")
Settled = TypeVar("Settled")


@dataclass(frozen=True)
class GroupRecord:
    """What the rollout recorded of the survivors of one prompt's group."""

    advantage_G: NDArray[np.float64]  # A_i (eq. 4)
    image_ids_GN: NDArray[np.int32]
    entropy_GN: NDArray[np.float32]  # of the guided distribution, in nats
    conditional_logprob_GN: NDArray[np.float32]
    unconditional_logprob_GN: NDArray[np.float32] | None  # None unless the method needs it
    grid: tuple[int, int]  # rows and columns of image tokens; token t = row * columns + column
    vector_VD: NDArray[np.float32] | None  # unit vectors of all image tokens, if needed


@dataclass(frozen=True)
class GroupWeights:
    """Weights of a group's image tokens. CoT tokens have the weight 1."""

    surrogate_GN: NDArray[np.float64]
    kl_GN: NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """One micro-batch without gradient. Values at masked positions are 0."""

    advantage_B: Tensor  # A_i (eq. 4), float32
    has_variance_B: Tensor  # bool, whether rewards differ in the trajectory's group
    cot_mask_BT: Tensor
    image_mask_BT: Tensor
    entropy_BT: Tensor | None = None  # h = H / log V
    logprob_BT: Tensor | None = None  # policy
    reference_logprob_BT: Tensor | None = None
    surrogate_weight_BT: Tensor | None = None  # of the group stage; None stands for 1
    kl_weight_BT: Tensor | None = None

    @property
    def mask_BT(self) -> Tensor:
        """Valid tokens, CoT and image together."""
        return self.cot_mask_BT | self.image_mask_BT

    def weighted(self) -> TokenTerms:
        """The terms of GRPO, times the weights of the group stage."""
        advantage_BT = self.advantage_B[:, None].expand(self.cot_mask_BT.shape)
        if self.surrogate_weight_BT is not None:
            advantage_BT = advantage_BT * self.surrogate_weight_BT
        if self.kl_weight_BT is None:
            return TokenTerms(advantage_BT, torch.ones_like(advantage_BT))
        return TokenTerms(advantage_BT, self.kl_weight_BT)


@dataclass(frozen=True)
class TokenTerms:
    """What a method gives each token; values at masked positions have no effect."""

    advantage_BT: Tensor  # A~; where it is 0, the reward moves nothing
    kl_weight_BT: Tensor  # multiplies the KL term; 1 is plain
    metrics: Metrics = field(default_factory=dict)


class TokenMethod(Generic[Summary, Settled]):
    """A way to credit tokens. Without any stage of its own it is GRPO: A~ = A_i."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def check(self, num_image_tokens: int) -> None:
        """Raise ``UserError`` for a model whose images the method cannot be used with."""

    def group_weights(self, group: GroupRecord) -> GroupWeights:
        """The group stage, for methods that need the group."""
        raise NotImplementedError

    def summary(self, rows: Rows) -> Summary:
        """What the batch stage has to know of a micro-batch, for methods that need the batch.

        The ranks exchange the summaries of all micro-batches, so they hold no tensors.
        """
        raise NotImplementedError

    def settle(self, summaries: Sequence[Summary]) -> Settled:
        """The batch stage: the same result on every rank, from the summaries of all."""
        raise NotImplementedError

    def settled_metrics(self, settled: Settled) -> dict[str, float]:
        """The metrics of the batch stage, under their names in a metrics row."""
        return {}

    def terms(self, rows: Rows, settled: Settled | None) -> TokenTerms:
        """A~ and the weight of the KL term of each token. ``settled`` is None without batch stage.

        Raises ValueError when something is None that the method needs.
        """
        return rows.weighted()
