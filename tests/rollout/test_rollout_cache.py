"""The preallocated cache: equal to transformers' own, without its copies."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from benchmarks.small_models.random_janus import tiny_policy
from rollout.kv_cache import PreallocatedCache

ROWS, PREFIX, STEPS = 3, 5, 6


@torch.no_grad()
def test_decoding_with_it_equals_decoding_with_a_dynamic_cache() -> None:
    """Prefill and every later step give bit for bit the hidden states of ``DynamicCache``."""
    policy = tiny_policy()
    ids = torch.randint(24, (ROWS, PREFIX + STEPS), generator=torch.Generator().manual_seed(0))
    caches = (DynamicCache(), PreallocatedCache(num_layers=2, capacity=PREFIX + STEPS))
    chunks = [ids[:, :PREFIX], *ids[:, PREFIX:].split(1, dim=1)]
    for chunk in chunks:
        ours, theirs = (
            policy.hidden_states(policy.embed_text(chunk), cache=cache) for cache in caches
        )
        assert torch.equal(ours, theirs)
    assert caches[1].get_seq_length() == PREFIX + STEPS


def test_it_writes_in_place_and_returns_the_filled_part_only() -> None:
    """No update moves the storage, and no view shows a slot that holds nothing."""
    layer = PreallocatedCache(num_layers=1, capacity=8).rows[0]
    block = torch.arange(2 * 1 * 8 * 1, dtype=torch.float32).view(2, 1, 8, 1)
    keys, _ = layer.update(block[:, :, :3], block[:, :, :3])
    place = keys.data_ptr()
    keys, values = layer.update(block[:, :, 3:4], -block[:, :, 3:4])
    assert keys.data_ptr() == place
    assert torch.equal(keys, block[:, :, :4])
    assert torch.equal(values[:, :, 3:], -block[:, :, 3:4])


@pytest.mark.parametrize("rows", [[2, 0], [1], [0, 0, 1, 2, 2]])
def test_rows_are_kept_dropped_and_repeated(rows: list[int]) -> None:
    """After ``select_rows`` row r holds what row ``rows[r]`` held, and there is room as before."""
    layer = PreallocatedCache(num_layers=1, capacity=6).rows[0]
    block = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    layer.update(block, -block)
    layer.select_rows(torch.tensor(rows))
    more = torch.zeros(len(rows), 2, 2, 5)
    keys, values = layer.update(more, more)
    assert torch.equal(keys[:, :, :4], block[rows])
    assert torch.equal(values[:, :, :4], -block[rows])
    assert keys.shape == (len(rows), 2, 6, 5)
