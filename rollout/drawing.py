"""Draws tokens: the inverse CDF turns one uniform random number into one token.

A counter-based generator makes this number, the token's noise, from (seed, phase, position) alone.
The other rows of the batch, the batch size and the worker therefore cannot change it.

Shape legend: B = rows, T = tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

# The multiples of an odd number differ modulo 2**63. This one, 2**63 over the golden ratio, spreads
# them evenly.
_STRIDE = 0x4F1BBCDCBFA53E0B


class Phase(IntEnum):
    """The phases of a trajectory. Each has a noise stream of its own."""

    COT = 0
    IMAGE = 1


def token_noise(seeds: Sequence[int], phase: Phase, count: int) -> Tensor:
    """Uniforms in [0, 1), B T, float64: row b is the Philox stream of key (``seeds[b]``, phase).

    Seeds are integers in [0, 2**64).
    """
    noise_BT = np.empty((len(seeds), count), dtype=np.float64)
    for row, seed in zip(noise_BT, seeds, strict=True):
        key = np.array([seed, phase], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(out=row)
    return torch.from_numpy(noise_BT)


def image_seed(seed: int, place: int) -> int:
    """The seed of the noise of image ``place``, for several images of the CoT of ``seed``.

    The first of them has the seed of its CoT, as the only image of a CoT has.
    """
    return (seed + place * _STRIDE) % 2**63


def draw_tokens(weight_BV: Tensor, noise_B: Tensor) -> Tensor:
    """The token at quantile ``noise_B`` of each row, B; weights need not sum to 1.

    The CDF is summed in float64, because float32 would lose the tail of a large vocabulary.
    """
    cdf_BV = weight_BV.cumsum(dim=-1, dtype=torch.float64)
    total_B = cdf_BV[:, -1]
    # Rounding can raise the product to the total, where the search would find a token of
    # probability 0. The target is therefore kept below the total.
    target_B = torch.minimum(noise_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    return torch.searchsorted(cdf_BV, target_B.unsqueeze(-1), right=True).squeeze(-1)
