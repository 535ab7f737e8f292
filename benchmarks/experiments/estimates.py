"""Inner products of expected gradients, estimated from few batches.

A gradient that is averaged over few batches is mostly noise, and its squared norm is too large. So
the product of two expected gradients is the mean of the inner products of two different batches,
which has no bias. Standard errors are those of the jackknife over batches.

Shape legend: K = batches, P = trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


def cross_product(first_KP: Tensor, second_KP: Tensor) -> Estimate:
    """The inner product of two expected gradients, from K pairs of measured ones.

    It is the mean over all pairs of different batches. For a gradient with itself it is the squared
    norm of the expected gradient, and may come out negative where that is zero.
    """
    return jackknife(_mean_of_pairs, first_KP @ second_KP.T)


def cosine(first_KP: Tensor, second_KP: Tensor) -> Estimate:
    """The cosine of two expected gradients."""
    grams = torch.stack(
        [first_KP @ second_KP.T, first_KP @ first_KP.T, second_KP @ second_KP.T], dim=-1
    )

    def ratio(gram: Tensor) -> Tensor:
        mixed, first, second = (_mean_of_pairs(gram[..., i]) for i in range(3))
        return mixed / (first * second).clamp(min=0).sqrt()

    return jackknife(ratio, grams)


def projection(first_KP: Tensor, onto_KP: Tensor) -> Estimate:
    """The projection of an expected gradient onto another one, in units of the other one."""
    grams = torch.stack([first_KP @ onto_KP.T, onto_KP @ onto_KP.T], dim=-1)
    return jackknife(lambda g: _mean_of_pairs(g[..., 0]) / _mean_of_pairs(g[..., 1]), grams)


def jackknife(statistic: Callable[[Tensor], Tensor], gram_KK: Tensor) -> Estimate:
    """A statistic of the inner products of K batches, with its error from leaving batches out."""
    count = len(gram_KK)
    kept = [torch.arange(count) != left_out for left_out in range(count)]
    parts_K = torch.stack([statistic(gram_KK[keep][:, keep]) for keep in kept])
    variance = (count - 1) * parts_K.double().var(unbiased=False)
    return Estimate(float(statistic(gram_KK)), float(variance.sqrt()))


def _mean_of_pairs(gram_KK: Tensor) -> Tensor:
    """The mean of the entries off the diagonal."""
    count = len(gram_KK)
    return (gram_KK.sum() - gram_KK.diagonal().sum()) / (count * (count - 1))
