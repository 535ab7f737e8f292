"""The next-token distribution, softmax((u + w (c - u)) / T), and what is read off it.

c and u are float32 logits of a trajectory and of its unconditional twin, w the guidance scale, T
the temperature. Rollout, learner and vLLM all compute it by the functions below, in this order.

Shape legend: N = tokens, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Softmax:
    """Next-token distributions of N rows, not normalised: drawing and recording share the parts.

    Computed in float32 whatever the logits are: bfloat16 entropies tie in large numbers and the
    percentiles of the entropy partition break.
    """

    shifted_NV: Tensor  # logits less the largest of their row
    weight_NV: Tensor  # their exponentials
    total_N: Tensor  # the sums of these

    @staticmethod
    def of(logits_NV: Tensor) -> Softmax:
        shifted_NV = logits_NV.float() - logits_NV.amax(dim=-1, keepdim=True)
        weight_NV = shifted_NV.exp()
        return Softmax(shifted_NV, weight_NV, weight_NV.sum(dim=-1))

    def logprob(self, target_N: Tensor) -> Tensor:
        """Log-prob of each target, in nats."""
        target_N1 = target_N.long().unsqueeze(-1)
        return self.shifted_NV.gather(-1, target_N1).squeeze(-1) - torch.log(self.total_N)

    def entropy(self) -> Tensor:
        """Shannon entropy of each row (paper eq. 2), in nats."""
        # Finite, so that an impossible token adds 0 * log 0 = 0.
        finite_NV = self.shifted_NV.clamp(min=torch.finfo(torch.float32).min)
        mean_N = torch.linalg.vecdot(self.weight_NV, finite_NV) / self.total_N
        return torch.log(self.total_N) - mean_N


def logprob_entropy(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (paper eq. 2) of each row, in nats, float32."""
    softmax = Softmax.of(logits_NV)
    return softmax.logprob(target_N), softmax.entropy()


def head_logits(hidden: Tensor, head: nn.Linear) -> Tensor:
    """float32 logits of a head of any float type; rollout and learner must round alike."""
    flat_ND = hidden.reshape(-1, hidden.shape[-1])
    if flat_ND.dtype == torch.float32:
        logits_NV = functional.linear(flat_ND, head.weight, head.bias)
    else:
        logits_NV = wide_product(flat_ND, head.weight.T, torch.float32)
        if head.bias is not None:
            logits_NV = logits_NV + head.bias
    return logits_NV.view(*hidden.shape[:-1], head.out_features)


def wide_product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right with sums and result in ``dtype``; 16-bit logits would be off by 0.03."""
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance u + w (c - u) of the logits c and u; at w = 1 c to the last bit.

    Raises TypeError in 16 bits: what the head reads is rounded there, and guiding that in place of
    the logits, though linear, moves log-probs by up to 0.2 nats at w = 5 on the shapes model.
    """
    _refuse_16_bits(conditional)
    return torch.lerp(unconditional, conditional, guidance_scale)


def temper(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits / temperature, which comes after guidance; raises TypeError in 16 bits."""
    if not isinstance(temperature, Tensor) and temperature == 1.0:
        return logits  # a large vocabulary makes the division felt
    _refuse_16_bits(logits)
    return logits / temperature


def _refuse_16_bits(logits: Tensor) -> None:
    if logits.dtype.itemsize < 4:
        raise TypeError(f"guidance and temperature act on float32 logits, not on {logits.dtype}")
