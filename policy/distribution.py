"""What is read off a next-token distribution: the log-prob of a token and the Shannon entropy.

Shape legend: N = tokens, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def logprob_entropy(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (paper eq. 2) of each row, in nats, float32.

    Computed in float32 whatever the logits are: bfloat16 entropies tie in large numbers and the
    percentiles of the entropy partition break.
    """
    below_NV = logits_NV.float() - logits_NV.amax(dim=-1, keepdim=True)
    exp_NV = below_NV.exp()
    sum_N = exp_NV.sum(dim=-1)
    # Finite, so that an impossible token adds 0 * log 0 = 0.
    finite_NV = below_NV.clamp(min=torch.finfo(torch.float32).min)
    entropy_N = torch.log(sum_N) - torch.linalg.vecdot(exp_NV, finite_NV) / sum_N
    target_N1 = target_N.long().unsqueeze(-1)
    return below_NV.gather(-1, target_N1).squeeze(-1) - torch.log(sum_N), entropy_N


def head_logits(hidden: Tensor, head: nn.Linear) -> Tensor:
    """float32 logits of a head of any float type; rollout and learner must round alike."""
    flat_ND = hidden.reshape(-1, hidden.shape[-1])
    if flat_ND.dtype == torch.float32:
        logits_NV = functional.linear(flat_ND, head.weight, head.bias)
    else:
        logits_NV = wide_product(flat_ND, head.weight.T, torch.float32)
        if head.bias is not None:
            logits_NV = logits_NV + head.bias
    return logits_NV.view(*hidden.shape[:-1], -1)


def wide_product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right with sums and result in ``dtype``; 16-bit logits would be off by 0.03."""
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance u + w (c - u), on logits or on anything linear before them."""
    return unconditional + guidance_scale * (conditional - unconditional)
