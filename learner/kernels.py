"""Log-probs and entropies of a linear head without its logits [N, V] in memory.

The vocabulary is walked in blocks of K columns with a running softmax, so that every block of the
weight is read once a pass and every row of its gradient written once. The logits are computed once
as well, and no memory is held for them until the backward pass:
- head frozen: the forward pass forms the gradient with respect to the hidden states alongside, as
  the gradient of a log-prob is known but for one factor per token.
- head trained: the backward pass will need room for the weight's gradient, D numbers per id. That
  room is taken early and holds the exponentials, N numbers per id, until the gradient replaces
  them. Those that it cannot hold, when N is larger than D, are computed again.

Shape legend: N = tokens, D = hidden size, V = vocabulary, K = columns of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from policy.distribution import wide_product

# Two blocks are alive at a time: in the cache of a CPU core they are fast, a GPU wants them large.
SCRATCH_BYTES = {"cpu": 5 * 2**20, "cuda": 64 * 2**20}
COLUMN_UNIT = 128  # blocks are multiples of this: odd widths cost a quarter of the speed (MKL)


def linear_logprob_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    with_entropy: bool = True,
    scratch_bytes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(z)[target] and the entropy (nats) of softmax(z), z = hidden W^T + b.

    Gradients reach hidden states, weight and bias through the log-prob, and are exact; the entropy
    carries none, and is None unless asked for. Softmax and sums are in float32 (float64 for float64
    inputs) whatever the inputs' type. Logits must be finite.

    Guided logits u + w (c - u) need no kernel of their own: the head is linear, so they are its
    logits of the guided hidden states (``policy.distribution.guide``), and the bias is the bias.
    For a temperature, divide hidden states and bias by it.

    Args:
        hidden_ND, weight_VD, bias_V: of one float type.
        target_N: int64 token ids in [0, V).
        scratch_bytes: memory of the blocks at work, beyond inputs, outputs and gradients; at least
            COLUMN_UNIT columns are taken at a time. Without it what suits the device.

    Returns:
        (logprob_N, entropy_N or None), float32.

    Raises IndexError for a target outside the vocabulary, ValueError for mixed float types.
    """
    vocabulary = weight_VD.shape[0]
    if target_N.numel() and not 0 <= int(target_N.min()) <= int(target_N.max()) < vocabulary:
        raise IndexError(f"target_N must lie in [0, {vocabulary})")
    if hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden is {hidden_ND.dtype}, weight {weight_VD.dtype}")
    logprob_N, entropy_N = _LinearLogprobEntropy.apply(
        hidden_ND,
        weight_VD,
        target_N,
        bias_V,
        with_entropy,
        SCRATCH_BYTES[hidden_ND.device.type] if scratch_bytes is None else scratch_bytes,
        torch.is_grad_enabled(),  # inside forward() it is always off
    )
    return logprob_N, entropy_N if with_entropy else None


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        bias_V: Tensor | None,
        with_entropy: bool,
        scratch_bytes: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden_grad, weight_grad, _, bias_grad = ctx.needs_input_grad[:4]
        head_trained = grad_enabled and (weight_grad or bias_grad)
        only_hidden = grad_enabled and hidden_grad and not head_trained

        softmax = _RunningSoftmax(hidden_ND, with_entropy)
        column_bytes = max(hidden_ND.shape[0], 1) * softmax.dtype.itemsize
        width = COLUMN_UNIT * max(scratch_bytes // (2 * COLUMN_UNIT * column_bytes), 1)
        vocabulary = weight_VD.shape[0]
        blocks = [(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]
        kept = None
        if grad_enabled and weight_grad:
            kept = _KeptInGradient(weight_VD, hidden_ND.shape[0], softmax.dtype)
        maxima: list[Tensor] = []  # of each block, what its exponentials are relative to
        # sum_v exp(z_v - max) W_v, which becomes the gradient
        slope_ND = softmax.zeros(hidden_ND.shape if only_hidden else (0,))
        for start, stop in blocks:
            logits_NK = _logits(hidden_ND, weight_VD, bias_V, start, stop)
            room_NK = kept.room(start, stop) if kept else None
            exp_NK, shrink_N = softmax.add(logits_NK, target_N - start, room_NK)
            maxima.append(softmax.maximum_N)
            if only_hidden:
                slope_ND.mul_(shrink_N[:, None])
                _add_product_(slope_ND, exp_NK.to(weight_VD.dtype), weight_VD[start:stop])

        if only_hidden:
            # d logprob / d hidden = W_target - sum_v p_v W_v
            slope_ND.div_(-softmax.sum_N[:, None]).add_(weight_VD[target_N])
            ctx.save_for_backward(slope_ND)
        elif head_trained:
            ctx.save_for_backward(
                hidden_ND, weight_VD, target_N, bias_V, softmax.log_normaliser(), *maxima
            )
        ctx.head_trained, ctx.blocks, ctx.kept = head_trained, blocks, kept
        ctx.hidden_dtype = hidden_ND.dtype
        entropy_N = softmax.entropy() if with_entropy else softmax.sum_N.new_empty(0)
        ctx.mark_non_differentiable(entropy_N)
        return softmax.target_N - softmax.log_normaliser(), entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.head_trained:
            (slope_ND,) = ctx.saved_tensors
            return (grad_N[:, None] * slope_ND).to(ctx.hidden_dtype), *[None] * 6
        hidden_ND, weight_VD, target_N, bias_V, log_normaliser_N, *maxima = ctx.saved_tensors
        hidden_needed, weight_needed, _, bias_needed = ctx.needs_input_grad[:4]
        dtype = log_normaliser_N.dtype
        hidden_grad_ND = torch.zeros_like(hidden_ND, dtype=dtype) if hidden_needed else None
        # What is kept serves once: a second pass through a retained graph computes all again.
        kept, ctx.kept = ctx.kept, None
        weight_grad_VD = kept.gradient_VD if kept else None
        if weight_needed and weight_grad_VD is None:
            weight_grad_VD = torch.empty_like(weight_VD)
        bias_grad_V = torch.empty_like(bias_V) if bias_needed else None
        for index, (start, stop) in enumerate(ctx.blocks):
            exp_NK = kept.room(start, stop) if kept else None
            if exp_NK is None:
                exp_NK = _logits(hidden_ND, weight_VD, bias_V, start, stop)
                exp_NK.sub_(maxima[index][:, None]).exp_()
            slope_NK = exp_NK * (-grad_N * torch.exp(maxima[index] - log_normaliser_N))[:, None]
            column_N1, inside_N1 = _columns_of_targets(target_N - start, stop - start)
            slope_NK.scatter_add_(1, column_N1, torch.where(inside_N1, grad_N[:, None], 0.0))
            if bias_grad_V is not None:
                bias_grad_V[start:stop] = slope_NK.sum(dim=0)
            slope_NK = slope_NK.to(weight_VD.dtype)
            if hidden_grad_ND is not None:
                _add_product_(hidden_grad_ND, slope_NK, weight_VD[start:stop])
            if weight_grad_VD is not None:
                torch.mm(slope_NK.T, hidden_ND, out=weight_grad_VD[start:stop])
        if hidden_grad_ND is not None:
            hidden_grad_ND = hidden_grad_ND.to(ctx.hidden_dtype)
        return hidden_grad_ND, weight_grad_VD, None, bias_grad_V, None, None, None


class _KeptInGradient:
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


class _RunningSoftmax:
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
        column_N1, inside_N1 = _columns_of_targets(column_N, logits_NK.shape[1])
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


def _logits(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    start: int,
    stop: int,
) -> Tensor:
    dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
    logits_NK = wide_product(hidden_ND, weight_VD[start:stop].T, dtype)
    if bias_V is not None:
        logits_NK.add_(bias_V[start:stop])
    return logits_NK


def _columns_of_targets(column_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The targets' columns within a block (any valid one when outside) and whether inside."""
    inside_N1 = ((column_N >= 0) & (column_N < width))[:, None]
    return column_N[:, None].clamp(0, width - 1), inside_N1


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, with sums in the type of ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(wide_product(left, right, total.dtype))
