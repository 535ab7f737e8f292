"""Log-probs and entropies of a linear head without its logits [N, V] in memory.

The vocabulary is walked in blocks of K columns with a running softmax, so that every block of the
weight is read once a pass and every row of its gradient written once. Of the backward pass as much
is prepared as the scratch memory allows:
- head frozen: the forward pass forms the gradient with respect to the hidden states alongside, as
  the gradient of a log-prob is known but for one factor per token. No logits are needed again.
- head trained: the exponentials of the first blocks are kept, those of the others recomputed.

Shape legend: N = tokens, D = hidden size, V = vocabulary, K = columns of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from policy.distribution import wide_product

# Just under a tenth of the four copies of the logits that full log-softmax holds at V = 102,400 and
# 600 tokens; room for the exponentials of 35 % of the vocabulary (docs/benchmarks.md).
SCRATCH_BYTES = 88 * 2**20
WORKING_SHARE = 36  # a block is this part of the scratch; two are alive at a time
COLUMN_UNIT = 128  # blocks are multiples of this: odd widths cost a quarter of the speed (MKL)


def linear_logprob_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    with_entropy: bool = True,
    scratch_bytes: int = SCRATCH_BYTES,
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
        scratch_bytes: memory beyond inputs, outputs and gradients, approximately. More is faster,
            until all logits fit.

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
        scratch_bytes,
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
        units = scratch_bytes // (WORKING_SHARE * COLUMN_UNIT * column_bytes)
        width = COLUMN_UNIT * max(units, 1)
        vocabulary = weight_VD.shape[0]
        blocks = [(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]
        kept_blocks = scratch_bytes // (width * column_bytes) - 2 if head_trained else 0
        kept: list[Tensor] = []  # exponentials of a block and the maximum they are relative to
        # sum_v exp(z_v - max) W_v, which becomes the gradient
        slope_ND = softmax.zeros(hidden_ND.shape if only_hidden else (0,))
        for index, (start, stop) in enumerate(blocks):
            logits_NK = _logits(hidden_ND, weight_VD, bias_V, start, stop)
            exp_NK, shrink_N = softmax.add(logits_NK, target_N - start)
            if index < kept_blocks:
                kept += [exp_NK, softmax.maximum_N]
            if only_hidden:
                slope_ND.mul_(shrink_N[:, None])
                _add_product_(slope_ND, exp_NK.to(weight_VD.dtype), weight_VD[start:stop])

        if only_hidden:
            # d logprob / d hidden = W_target - sum_v p_v W_v
            slope_ND.div_(-softmax.sum_N[:, None]).add_(weight_VD[target_N])
            ctx.save_for_backward(slope_ND)
        elif head_trained:
            ctx.save_for_backward(
                hidden_ND, weight_VD, target_N, bias_V, softmax.log_normaliser(), *kept
            )
        ctx.head_trained, ctx.blocks = head_trained, blocks
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
        hidden_ND, weight_VD, target_N, bias_V, log_normaliser_N, *kept = ctx.saved_tensors
        hidden_needed, weight_needed, _, bias_needed = ctx.needs_input_grad[:4]
        dtype = log_normaliser_N.dtype
        hidden_grad_ND = torch.zeros_like(hidden_ND, dtype=dtype) if hidden_needed else None
        weight_grad_VD = torch.empty_like(weight_VD) if weight_needed else None
        bias_grad_V = torch.empty_like(bias_V) if bias_needed else None
        grad_N1 = grad_N[:, None]
        for index, (start, stop) in enumerate(ctx.blocks):
            if 2 * index < len(kept):
                exp_NK, maximum_N = kept[2 * index : 2 * index + 2]
                # A new tensor: the kept one serves again when the graph is retained.
                slope_NK = exp_NK * (-grad_N1 * torch.exp(maximum_N - log_normaliser_N)[:, None])
            else:
                slope_NK = _logits(hidden_ND, weight_VD, bias_V, start, stop)
                slope_NK.sub_(log_normaliser_N[:, None]).exp_().mul_(-grad_N1)
            column_N1, inside_N1 = _columns_of_targets(target_N - start, stop - start)
            slope_NK.scatter_add_(1, column_N1, torch.where(inside_N1, grad_N1, 0.0))
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

    def add(self, logits_NK: Tensor, column_N: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a block, overwriting it; ``column_N`` is the target's place in it, if inside.

        Returns exp(z - max) of the block and the factor by which older sums shrank.
        """
        column_N1, inside_N1 = _columns_of_targets(column_N, logits_NK.shape[1])
        target_N1 = logits_NK.gather(1, column_N1)
        self.target_N = torch.where(inside_N1, target_N1, self.target_N[:, None])[:, 0]

        maximum_N = torch.maximum(self.maximum_N, logits_NK.amax(dim=1))
        shift_N = self.maximum_N - maximum_N
        shrink_N = torch.exp(shift_N)
        below_NK = logits_NK.sub_(maximum_N[:, None])
        if self.with_entropy:
            exp_NK = torch.exp(below_NK)
            # The shift of the first block is -inf, with nothing yet to weigh by it.
            carried_N = torch.where(self.sum_N > 0, self.weighted_N + self.sum_N * shift_N, 0.0)
            self.weighted_N = shrink_N * carried_N + torch.linalg.vecdot(exp_NK, below_NK)
        else:
            exp_NK = below_NK.exp_()
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
