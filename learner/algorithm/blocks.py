"""What ``learner.algorithm.kernels`` needs to walk a head's vocabulary in blocks of columns.

``Head`` computes the logits of one block, ``RunningSoftmax`` sums over the blocks seen so far, and
``KeptInGradient`` keeps exponentials from the forward pass for the backward pass.

Shape legend: N = tokens, D = hidden size, V = vocabulary, K = columns of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.distribution import guide, temper, wide_product

COLUMN_UNIT = 128  # block widths are multiples of it; with odd widths MKL is a quarter slower


@dataclass(frozen=True)
class Head:
    """Logits z = (u + w (c - u)) / T of a linear layer.

    c are the logits of the hidden states and u those of their unconditional twin. Each has a matrix
    product of its own in the inputs' type, summed in float32, and guidance acts on these sums. So
    guidance never acts on numbers that were rounded to 16 bits. Two such products are faster than
    one product in float32.
    """

    hidden_ND: Tensor
    twin_ND: Tensor | None
    weight_VD: Tensor
    bias_V: Tensor | None
    temperature: float
    guidance_scale: float

    @property
    def dtype(self) -> torch.dtype:
        """The type of the logits."""
        return torch.promote_types(self.hidden_ND.dtype, torch.float32)

    def blocks(self, scratch_bytes: int) -> list[tuple[int, int]]:
        """The columns [start, stop) of each block.

        The blocks that are in memory at a time fit ``scratch_bytes``, unless that is too little for
        COLUMN_UNIT columns: a block is never narrower.
        """
        alive = 2 if self.twin_ND is None else 3
        column_bytes = max(self.hidden_ND.shape[0], 1) * self.dtype.itemsize * alive
        width = COLUMN_UNIT * max(scratch_bytes // (COLUMN_UNIT * column_bytes), 1)
        vocabulary = self.weight_VD.shape[0]
        return [(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]

    def logits(self, start: int, stop: int) -> Tensor:
        """z of the columns [start, stop)."""
        logits_NK = self._stream(self.hidden_ND, start, stop)
        if self.twin_ND is not None:
            logits_NK = guide(
                logits_NK, self._stream(self.twin_ND, start, stop), self.guidance_scale
            )
        return temper(logits_NK, self.temperature)

    def read(self) -> Tensor:
        """The hidden states whose plain logits are T z, in the weight's type: the guided mixture of
        hidden states and twin."""
        if self.twin_ND is None:
            return self.hidden_ND
        guided_ND = guide(
            self.hidden_ND.to(self.dtype), self.twin_ND.to(self.dtype), self.guidance_scale
        )
        return guided_ND.to(self.weight_VD.dtype)

    def _stream(self, features_ND: Tensor, start: int, stop: int) -> Tensor:
        logits_NK = wide_product(features_ND, self.weight_VD[start:stop].T, self.dtype)
        if self.bias_V is not None:
            logits_NK.add_(self.bias_V[start:stop])
        return logits_NK


class KeptInGradient:
    """Keeps the exponentials [N, K] of blocks in the memory of the weight's later gradient [V, D].

    The room of a block begins where its rows of the gradient begin, or later if the rooms before it
    need more bytes than their rows. The backward pass must take the blocks in order, and read a
    block before it writes that block's rows. Then no exponentials are overwritten before they are
    read.
    """

    def __init__(self, weight_VD: Tensor, tokens: int, dtype: torch.dtype) -> None:
        self.gradient_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format)
        self._bytes = self.gradient_VD.view(-1).view(torch.uint8)
        self._tokens, self._dtype = tokens, dtype
        row_bytes = weight_VD.shape[1] * weight_VD.dtype.itemsize
        self._column_bytes = tokens * dtype.itemsize
        self._spacing = max(row_bytes, self._column_bytes)  # bytes from one id to the next

    def room(self, start: int, stop: int) -> Tensor | None:
        """[N, stop - start] to write to or read from; None if the gradient has no room left."""
        first = start * self._spacing
        last = first + (stop - start) * self._column_bytes
        if last > self._bytes.numel():
            return None
        return self._bytes[first:last].view(self._dtype).view(self._tokens, stop - start)


class RunningSoftmax:
    """The sums of a softmax over the blocks seen so far, relative to their largest logit."""

    def __init__(self, hidden_ND: Tensor, with_entropy: bool) -> None:
        self.dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
        self.device = hidden_ND.device
        self.with_entropy = with_entropy
        self.maximum_N = self.zeros(hidden_ND.shape[:1]).fill_(-torch.inf)
        self.sum_N = torch.zeros_like(self.maximum_N)
        self.weighted_N = torch.zeros_like(self.maximum_N)  # sum of exp(z - max) (z - max)
        self.target_N = torch.zeros_like(self.maximum_N)

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def add(
        self, logits_NK: Tensor, column_N: Tensor, out_NK: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add a block. ``logits_NK`` is overwritten.

        ``column_N`` is each target's column counted from the block's first; a target outside the
        block has a column outside it.

        Returns exp(z - max) of the block, written to ``out_NK`` if given, and the factor by which
        the sums of earlier blocks shrank because the maximum grew.
        """
        column_N1, inside_N1 = columns_of_targets(column_N, logits_NK.shape[1])
        target_N1 = logits_NK.gather(1, column_N1)
        self.target_N = torch.where(inside_N1, target_N1, self.target_N[:, None])[:, 0]

        maximum_N = torch.maximum(self.maximum_N, logits_NK.amax(dim=1))
        shift_N = self.maximum_N - maximum_N
        shrink_N = torch.exp(shift_N)
        below_NK = logits_NK.sub_(maximum_N[:, None])
        exp_NK = torch.exp(below_NK, out=out_NK)
        if self.with_entropy:
            # At the first block the shift is -inf and the sum is 0; their product would be NaN.
            carried_N = torch.where(self.sum_N > 0, self.weighted_N + self.sum_N * shift_N, 0.0)
            self.weighted_N = shrink_N * carried_N + torch.linalg.vecdot(exp_NK, below_NK)
        self.sum_N = shrink_N * self.sum_N + exp_NK.sum(dim=1)
        self.maximum_N = maximum_N
        return exp_NK, shrink_N

    def log_normaliser(self) -> Tensor:
        return self.maximum_N + torch.log(self.sum_N)

    def entropy(self) -> Tensor:
        """log sum exp(z) - sum p z in nats.

        Relative to the maximum both terms are 0 or more, also after rounding, and so is their sum.
        """
        return torch.log(self.sum_N) - self.weighted_N / self.sum_N


def columns_of_targets(column_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Each target's column in a block, and whether it lies inside; any valid column otherwise."""
    inside_N1 = ((column_N >= 0) & (column_N < width))[:, None]
    return column_N[:, None].clamp(0, width - 1), inside_N1


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, with sums in the type of ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(wide_product(left, right, total.dtype))
