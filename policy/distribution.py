"""What is read off a next-token distribution: the log-prob of a token and the Shannon entropy.

Shape legend: N = tokens, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def logprob_entropy(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (paper eq. 2) of each row, in nats, float32.

    Computed in float32 whatever the logits are: bfloat16 entropies tie in large numbers and the
    percentiles of the entropy partition break.
    """
    logprob_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    entropy_N = torch.special.entr(logprob_NV.exp()).sum(dim=-1)
    return logprob_NV.gather(-1, target_N.long().unsqueeze(-1)).squeeze(-1), entropy_N


def head_logits(hidden: Tensor, head: nn.Linear) -> Tensor:
    """float32 logits of a head of any float type; rollout and learner must round alike."""
    flat_ND = hidden.reshape(-1, hidden.shape[-1])
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
