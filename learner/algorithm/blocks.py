"""A head's vocabulary walked in blocks: the logits of a block, their softmax, room to keep them.

Shape legend: N = tokens, D = hidden size, V = vocabulary, K = columns of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.distribution import guide, temper, wide_product

COLUMN_UNIT = 128  # blocks are multiples of this: odd widths cost a quarter of the speed (MKL)


@dataclass(frozen=True)
class Head:
    """Logits z = (u + w (c - u)) / T of a linear layer over hidden states and their twin's.

    Each stream has a product of its own, summed in float32: what is rounded to 16 bits is not
    guided, and two such products are faster than one in float32.
    """

    hidden_ND: Tensor
    twin_ND: Tensor | None
    weight_VD: Tensor
    bias_V: Tensor | None
    temperature: float
    guidance_scale: float

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return torch.promote_types(self.hidden_ND.dtype, torch.float32)

    def blocks(self, scratch_bytes: int) -> list[tuple[int, int]]:
        """First and last column, exclusive, of each block; those alive at a time fit the scratch
        if COLUMN_UNIT columns do."""
        alive = 2 if self.twin_ND is None else 3
        column_bytes = max(self.hidden_ND.shape[0], 1) * self.dtype.itemsize * alive
        width = COLUMN_UNIT * max(scratch_bytes // (COLUMN_UNIT * column_bytes), 1)
        vocabulary = self.weight_VD.shape[0]
        return [(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]

    def logits(self, start: int, stop: int) -> Tensor:
        """z of a block."""
        logits_NK = self._stream(self.hidden_ND, start, stop)
        if self.twin_ND is not None:
            logits_NK = guide(
                logits_NK, self._stream(self.twin_ND, start, stop), self.guidance_scale
            )
        return temper(logits_NK, self.temperature)

    def read(self) -> Tensor:
        """What T z is the plain linear layer's logits of, in the weight's type."""
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
    """Room for exponentials [N, K] of blocks within the weight's gradient [V, D], not yet written.

    A block's room begins where its rows of the gradient do, or later if the rooms before it need
    more than their rows. So if the blocks are taken in order, and each is read before its rows are
    written, no block's exponentials are overwritten unread.
    """

    def __init__(self, weight_VD: Tensor, tokens: int, dtype: torch.dtype) -> None:
        self.gradient_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format)
        self._bytes = self.gradient_VD.view(-1).view(torch.uint8)
        self._tokens, self._dtype = tokens, dtype
        row_bytes = weight_VD.shape[1] * weight_VD.dtype.itemsize
        self._column_bytes = tokens * dtype.itemsize
        self._spacing = max(row_bytes, self._column_bytes)  # bytes from one id to the next

    def room(self, start: int, stop: int) -> Tensor | None:
        """[N, stop - start], or None if the gradient ends before it."""
        first = start * self._spacing
        last = first + (stop - start) * self._column_bytes
        if last > self._bytes.numel():
            return None
        return self._bytes[first:last].view(self._dtype).view(self._tokens, stop - start)


class RunningSoftmax:
    """Sums over the blocks seen so far, relative to the largest logit among them."""

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
        """Take in a block, overwriting it; ``column_N`` is the target's place in it, if inside.

        Returns exp(z - max) of the block, in ``out_NK`` if given, and the factor by which older
        sums shrank.
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
            # The shift of the first block is -inf, with nothing yet to weigh by it.
            carried_N = torch.where(self.sum_N > 0, self.weighted_N + self.sum_N * shift_N, 0.0)
            self.weighted_N = shrink_N * carried_N + torch.linalg.vecdot(exp_NK, below_NK)
        self.sum_N = shrink_N * self.sum_N + exp_NK.sum(dim=1)
        self.maximum_N = maximum_N
        return exp_NK, shrink_N

    def log_normaliser(self) -> Tensor:
        return self.maximum_N + torch.log(self.sum_N)

    def entropy(self) -> Tensor:
        """log sum exp(z) - sum p z, as two terms neither of which rounding can make negative."""
        return torch.log(self.sum_N) - self.weighted_N / self.sum_N


def columns_of_targets(column_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The targets' columns within a block (any valid one when outside) and whether inside."""
    inside_N1 = ((column_N >= 0) & (column_N < width))[:, None]
    return column_N[:, None].clamp(0, width - 1), inside_N1


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, with sums in the type of ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(wide_product(left, right, total.dtype))
