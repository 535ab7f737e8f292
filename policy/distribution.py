"""The next-token distribution softmax((u + w (c - u)) / T), its log-probs and its entropies.

c and u are the float32 logits of a trajectory and of its unconditional twin. w is the guidance
scale and T the temperature. Rollout, learner and vLLM all use the functions below: first guidance,
then temperature, then the softmax.

Shape legend: N = tokens, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of weights that are converted at a time on a CPU: so much fits the cache of a core.
_CONVERTED_BYTES = 2**20


@dataclass(frozen=True)
class Softmax:
    """The parts of N softmax distributions, before the division by their sums.

    Drawing a token and recording its log-prob both read these parts, so they are computed once.
    They are float32 for logits of any type. In bfloat16 many entropies would be equal, and the
    percentiles of the entropy partition could not tell tokens apart.
    """

    shifted_NV: Tensor  # logits minus the largest logit of the row
    weight_NV: Tensor  # exp(shifted_NV)
    total_N: Tensor  # sum of each row of weight_NV

    @staticmethod
    def of(logits_NV: Tensor) -> Softmax:
        shifted_NV = logits_NV.float() - logits_NV.amax(dim=-1, keepdim=True)
        weight_NV = shifted_NV.exp()
        return Softmax(shifted_NV, weight_NV, weight_NV.sum(dim=-1))

    def logprob(self, target_N: Tensor) -> Tensor:
        """Log-prob of each target (the factors of paper eq. 1), in nats."""
        target_N1 = target_N.long().unsqueeze(-1)
        return self.shifted_NV.gather(-1, target_N1).squeeze(-1) - torch.log(self.total_N)

    def entropy(self) -> Tensor:
        """Shannon entropy of each row (paper eq. 2), in nats."""
        # An impossible token has the logit -inf and the weight 0. The product 0 * -inf would be
        # NaN; with a finite logit the token adds 0.
        finite_NV = self.shifted_NV.clamp(min=torch.finfo(torch.float32).min)
        mean_N = torch.linalg.vecdot(self.weight_NV, finite_NV) / self.total_N
        return torch.log(self.total_N) - mean_N


def logprob_entropy(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (paper eq. 2) of each row, in nats, float32."""
    softmax = Softmax.of(logits_NV)
    return softmax.logprob(target_N), softmax.entropy()


def head_logits(hidden: Tensor, head: nn.Linear) -> Tensor:
    """float32 logits of a head of any float type.

    Rollout and learner both call this function, so that they round in the same way.
    """
    flat_ND = hidden.reshape(-1, hidden.shape[-1])
    if flat_ND.dtype == torch.float32:
        logits_NV = functional.linear(flat_ND, head.weight, head.bias)
    else:
        logits_NV = wide_product(flat_ND, head.weight.T, torch.float32)
        if head.bias is not None:
            logits_NV = logits_NV + head.bias
    return logits_NV.view(*hidden.shape[:-1], head.out_features)


def wide_product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right, summed and returned in ``dtype``.

    Logits that were rounded to 16 bits would be wrong by up to 0.03.
    """
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    # A CPU has no such product. Converting a whole text head takes far longer than the product of a
    # few tokens with it, because the result goes to memory and back. A block stays in the cache.
    width = max(_CONVERTED_BYTES // (right.shape[0] * dtype.itemsize), 1)
    wide = left.to(dtype)
    if right.shape[1] <= width:
        return wide @ right.to(dtype)
    return torch.cat([wide @ block.to(dtype) for block in right.split(width, dim=1)], dim=1)


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance u + w (c - u) of the logits c and u; w = 1 returns exactly c.

    Raises TypeError for 16-bit tensors. Guiding the head's 16-bit inputs instead of its float32
    logits looks equivalent, because the head is linear. But those inputs are rounded, and on the
    shapes model at w = 5 the log-probs move by up to 0.2 nats.
    """
    _refuse_16_bits(conditional)
    return torch.lerp(unconditional, conditional, guidance_scale)


def temper(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits / temperature, applied after guidance. Raises TypeError for 16-bit tensors."""
    if not isinstance(temperature, Tensor) and temperature == 1.0:
        return logits  # dividing a large vocabulary by 1 would cost time for nothing
    _refuse_16_bits(logits)
    return logits / temperature


def _refuse_16_bits(logits: Tensor) -> None:
    if logits.dtype.itemsize < 4:
        raise TypeError(f"guidance and temperature act on float32 logits, not on {logits.dtype}")
