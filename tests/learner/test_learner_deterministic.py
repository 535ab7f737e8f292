"""An update under torch's deterministic algorithms, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from benchmarks.published import published_weights
from benchmarks.trajectories import AS_PAPER
from learner.shares import split_over_ranks


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # without warn_only: what has none raises
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_operation_of_an_update_has_a_deterministic_algorithm(
    make_rank, batch, deterministic, zero_stage
):
    """Under both presets nothing raises for want of one, and two updates give the same weights to
    the bit, though torch now fills what is not initialised with NaN."""
    for algorithm in ({}, AS_PAPER):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*deterministic.*")
            receipts = []
            for _ in range(2):
                rank = make_rank(algorithm, zero_stage=zero_stage, micro_batch_size=3)
                row = rank.update(split_over_ranks(batch, 1)[0])
                receipts.append((row, published_weights(rank)[0]))
        assert receipts[0] == receipts[1]
        assert receipts[0][0]["updates/skipped"] == 0
