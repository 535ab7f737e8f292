"""Log-probs and entropies of a linear head, computed without its logits [N, V] in memory.

The kernel walks the vocabulary in blocks of K columns with a running softmax. Each pass reads every
block of the weight once, and the backward pass writes every row of its gradient once. The kernel
keeps no logits between the passes, and in most cases does not compute them twice:
- If the head is frozen, the forward pass computes the gradient with respect to the hidden states
  too. All that the gradient of a log-prob lacks then is one factor per token.
- If the head is trained, the backward pass needs memory for the weight's gradient, D numbers per
  vocabulary id. The forward pass allocates it and stores the exponentials there, N numbers per id,
  until the gradient replaces them. If N is larger than D, some exponentials find no room, and the
  backward pass computes them again.

Shape legend: N = tokens, D = hidden size, V = vocabulary, K = columns of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learner.algorithm.blocks import (
    Head,
    KeptInGradient,
    RunningSoftmax,
    add_product_,
    columns_of_targets,
)
from policy.distribution import temper

# Bytes of blocks at work. On a CPU they should fit the cache of a core; a GPU needs larger ones.
SCRATCH_BYTES = {"cpu": 5 * 2**20, "cuda": 256 * 2**20}


def linear_logprob_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    temperature: float,
    guidance_scale: float,
    twin_ND: Tensor | None = None,
    with_entropy: bool = True,
    scratch_bytes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(z)[target] and the entropy (eq. 2) of softmax(z), z = (u + w (c - u)) / T.

    c = hidden W^T + b and u = twin W^T + b; without a twin z = c / T. The log-prob has exact
    gradients with respect to hidden states, twin, weight and bias. The entropy, in nats, has no
    gradient. Logits, softmax and sums are in float32, or float64 for float64 inputs. Logits must be
    finite.

    Args:
        hidden_ND, weight_VD, bias_V, twin_ND: of one float type.
        target_N: int64 token ids in [0, V).
        temperature, guidance_scale: T and w.
        with_entropy: whether to compute the entropy.
        scratch_bytes: memory for the blocks at work, besides inputs, outputs and gradients; a block
            has COLUMN_UNIT columns even if they need more. None takes SCRATCH_BYTES of the device.

    Returns:
        (logprob_N, entropy_N or None), float32.

    Raises IndexError for a target outside the vocabulary, ValueError for mixed float types and for
    guidance without a twin.
    """
    vocabulary = weight_VD.shape[0]
    if target_N.numel() and not 0 <= int(target_N.min()) <= int(target_N.max()) < vocabulary:
        raise IndexError(f"target_N must lie in [0, {vocabulary})")
    if twin_ND is None and guidance_scale != 1.0:
        raise ValueError(f"guidance {guidance_scale} without the twin's hidden states")
    for name, tensor in (("hidden", hidden_ND), ("twin", twin_ND)):
        if tensor is not None and tensor.dtype != weight_VD.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, weight {weight_VD.dtype}")
    logprob_N, entropy_N = _LinearLogprobEntropy.apply(
        hidden_ND,
        twin_ND,
        weight_VD,
        target_N,
        bias_V,
        temperature,
        guidance_scale,
        with_entropy,
        SCRATCH_BYTES[hidden_ND.device.type] if scratch_bytes is None else scratch_bytes,
        torch.is_grad_enabled(),  # asked here, because inside forward() it is always False
    )
    return logprob_N, entropy_N if with_entropy else None


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        twin_ND: Tensor | None,
        weight_VD: Tensor,
        target_N: Tensor,
        bias_V: Tensor | None,
        temperature: float,
        guidance_scale: float,
        with_entropy: bool,
        scratch_bytes: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden_grad, twin_grad, weight_grad, _, bias_grad = ctx.needs_input_grad[:5]
        head_trained = grad_enabled and (weight_grad or bias_grad)
        only_hidden = grad_enabled and (hidden_grad or twin_grad) and not head_trained

        head = Head(hidden_ND, twin_ND, weight_VD, bias_V, temperature, guidance_scale)
        softmax = RunningSoftmax(hidden_ND, with_entropy)
        blocks = head.blocks(scratch_bytes)
        kept = None
        if grad_enabled and weight_grad:
            kept = KeptInGradient(weight_VD, hidden_ND.shape[0], softmax.dtype)
        maxima: list[Tensor] = []  # the maximum that each block's exponentials are relative to
        # sum_v exp(z_v - max) W_v, which becomes the gradient
        slope_ND = softmax.zeros(hidden_ND.shape if only_hidden else (0,))
        for start, stop in blocks:
            logits_NK = head.logits(start, stop)
            room_NK = kept.room(start, stop) if kept else None
            exp_NK, shrink_N = softmax.add(logits_NK, target_N - start, room_NK)
            maxima.append(softmax.maximum_N)
            if only_hidden:
                slope_ND.mul_(shrink_N[:, None])
                add_product_(slope_ND, exp_NK.to(weight_VD.dtype), weight_VD[start:stop])

        if only_hidden:
            # T d logprob / d (w hidden + (1 - w) twin) = W_target - sum_v p_v W_v
            slope_ND.div_(-softmax.sum_N[:, None]).add_(weight_VD[target_N])
            ctx.save_for_backward(slope_ND)
        elif head_trained:
            normaliser_N = softmax.log_normaliser()
            ctx.save_for_backward(
                hidden_ND, twin_ND, weight_VD, target_N, bias_V, normaliser_N, *maxima
            )
        ctx.head_trained, ctx.blocks, ctx.kept = head_trained, blocks, kept
        ctx.temperature, ctx.guidance_scale = temperature, guidance_scale
        ctx.hidden_dtype = hidden_ND.dtype
        entropy_N = softmax.entropy() if with_entropy else softmax.sum_N.new_empty(0)
        ctx.mark_non_differentiable(entropy_N)
        return softmax.target_N - softmax.log_normaliser(), entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_N = temper(grad_N, ctx.temperature)
        if not ctx.head_trained:
            (slope_ND,) = ctx.saved_tensors
            return *_shares(ctx, grad_N[:, None] * slope_ND), *[None] * 8
        hidden_ND, twin_ND, weight_VD, target_N, bias_V, normaliser_N, *maxima = ctx.saved_tensors
        hidden_needed, twin_needed, weight_needed, _, bias_needed = ctx.needs_input_grad[:5]
        head = Head(hidden_ND, twin_ND, weight_VD, bias_V, ctx.temperature, ctx.guidance_scale)
        summed_ND = None
        if hidden_needed or twin_needed:
            summed_ND = torch.zeros_like(hidden_ND, dtype=normaliser_N.dtype)
        # The kept exponentials serve one backward pass, which overwrites them. A second one through
        # a retained graph computes all of them again.
        kept, ctx.kept = ctx.kept, None
        weight_grad_VD = kept.gradient_VD if kept else None
        if weight_needed and weight_grad_VD is None:
            weight_grad_VD = torch.empty_like(weight_VD)
        read_ND = head.read() if weight_needed else None
        bias_grad_V = torch.empty_like(bias_V) if bias_needed else None
        for index, (start, stop) in enumerate(ctx.blocks):
            exp_NK = kept.room(start, stop) if kept else None
            if exp_NK is None:
                exp_NK = head.logits(start, stop)
                exp_NK.sub_(maxima[index][:, None]).exp_()
            slope_NK = exp_NK * (-grad_N * torch.exp(maxima[index] - normaliser_N))[:, None]
            column_N1, inside_N1 = columns_of_targets(target_N - start, stop - start)
            slope_NK.scatter_add_(1, column_N1, torch.where(inside_N1, grad_N[:, None], 0.0))
            if bias_grad_V is not None:
                bias_grad_V[start:stop] = slope_NK.sum(dim=0)
            slope_NK = slope_NK.to(weight_VD.dtype)
            if summed_ND is not None:
                add_product_(summed_ND, slope_NK, weight_VD[start:stop])
            if weight_grad_VD is not None and read_ND is not None:
                torch.mm(slope_NK.T, read_ND, out=weight_grad_VD[start:stop])
        return *_shares(ctx, summed_ND), weight_grad_VD, None, bias_grad_V, *[None] * 5


def _shares(ctx: Any, gradient_ND: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of hidden states and twin, given that of w hidden + (1 - w) twin."""
    hidden_needed, twin_needed = ctx.needs_input_grad[:2]
    hidden_grad_ND = twin_grad_ND = None
    if gradient_ND is not None and twin_needed:
        twin_grad_ND = (gradient_ND * (1 - ctx.guidance_scale)).to(ctx.hidden_dtype)
    if gradient_ND is not None and hidden_needed:
        if ctx.guidance_scale != 1.0:
            gradient_ND = gradient_ND * ctx.guidance_scale
        hidden_grad_ND = gradient_ND.to(ctx.hidden_dtype)
    return hidden_grad_ND, twin_grad_ND
