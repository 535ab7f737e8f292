"""Noise by counter and tokens by inverse CDF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rollout.drawing import Phase, draw_tokens, image_seed, token_noise

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]
ALMOST_ONE = float(np.nextafter(1.0, 0.0))


def test_noise_depends_on_seed_phase_and_position_alone() -> None:
    """A row's noise is the same alone, in a batch, and for a longer count; phases differ."""
    batch = token_noise([3, 2**64 - 1, 5], Phase.IMAGE, 7)
    assert torch.equal(token_noise([5], Phase.IMAGE, 7)[0], batch[2])
    assert torch.equal(token_noise([5], Phase.IMAGE, 20)[0, :7], batch[2])
    assert not torch.equal(token_noise([5], Phase.COT, 7)[0], batch[2])
    assert batch.dtype == torch.float64


def test_noise_is_uniform_over_neighbouring_seeds() -> None:
    """First numbers of the seeds 0..4999 are uniform: chi-square on 20 bins, level 0.001."""
    first = token_noise(range(5000), Phase.COT, 1)[:, 0].numpy()
    assert chisquare(np.histogram(first, bins=20, range=(0, 1))[0]).pvalue > 0.001


def test_the_images_of_a_cot_have_seeds_of_their_own() -> None:
    """The first keeps the seed of the CoT. A thousand images of ten neighbouring seeds, and of the
    largest, have as many seeds, all of 63 bits."""
    assert image_seed(41, 0) == 41
    seeds = [image_seed(seed, place) for seed in (*range(10), 2**63 - 1) for place in range(1000)]
    assert len(set(seeds)) == 11_000
    assert max(seeds) < 2**63


def test_a_token_is_the_quantile_of_its_noise() -> None:
    """With p = (1/2, 1/4, 1/4) the noise 0.5 is the first of token 1, and 0.75 of token 2."""
    weights = torch.tensor([2.0, 1.0, 1.0]).expand(6, 3)
    noise = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, ALMOST_ONE], dtype=torch.float64)
    assert draw_tokens(weights, noise).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("noise", [0.0, 0.5, ALMOST_ONE])
def test_a_token_of_probability_zero_is_never_drawn(noise: float) -> None:
    """Neither in front of, nor between, nor behind the possible tokens, whatever the noise."""
    weights = torch.tensor([[0.0, 1.0, 0.0, 1.3, 0.0]])
    assert draw_tokens(weights, torch.tensor([noise], dtype=torch.float64)).item() in (1, 3)


def test_the_tail_of_a_large_vocabulary_is_reachable() -> None:
    """Of 100,000 equal tokens the last is drawn for the last quantile, and each for its own."""
    count = 100_000
    noise = (torch.tensor([0, 12_345, 77_777, count - 1], dtype=torch.float64) + 0.5) / count
    tokens = draw_tokens(torch.ones(4, count), noise)
    assert (tokens - torch.tensor([0, 12_345, 77_777, count - 1])).abs().max() <= 1
