"""The entropy partition (section 5.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithm.choices import Modalities
from learner.algorithm.partition import entropy_partition, partition_by_modality

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True)
FLOAT = st.floats(0.0, 1.0, width=32)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def partition_row(*values: float) -> tuple[list[bool], list[bool]]:
    entropy_BT = row(*values)
    low_BT, high_BT = entropy_partition(entropy_BT, torch.ones_like(entropy_BT, dtype=torch.bool))
    return low_BT[0].tolist(), high_BT[0].tolist()


def test_literal_rows() -> None:
    """Six values: positions 1.0 and 2.5, so that one is under the 20th and three over the 50th."""
    low, high = partition_row(0.6, 0.1, 0.5, 0.2, 0.4, 0.3)
    assert low == [False, True, False, False, False, False]
    assert high == [True, False, True, False, True, False]


def test_one_token_is_its_own_percentile() -> None:
    """A one-token CoT is neither low nor high."""
    assert partition_row(0.4) == ([False], [False])


def test_two_tokens_are_one_low_one_high() -> None:
    """Even of two neighbouring float32 numbers: percentiles are formed in float64."""
    above = float(np.nextafter(np.float32(0.3), np.float32(1.0)))
    assert partition_row(0.9, 0.3) == ([False, True], [True, False])
    assert partition_row(above, 0.3) == ([False, True], [True, False])


def test_equal_entropies_leave_both_sets_empty() -> None:
    """Where nothing tells tokens apart EG-GRPO is GRPO."""
    assert partition_row(*[0.7] * 9) == ([False] * 9, [False] * 9)


def test_image_of_576_tokens_counts() -> None:
    """115 low and 288 high of 576 distinct values: what linear percentiles give."""
    entropy_BT = torch.rand(1, 576, generator=torch.Generator().manual_seed(0))
    low_BT, high_BT = entropy_partition(entropy_BT, torch.ones(1, 576, dtype=torch.bool))
    assert (int(low_BT.sum()), int(high_BT.sum())) == (115, 288)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_entropies_are_refused(dtype: torch.dtype) -> None:
    """bfloat16 merges distinct entropies into ties, which strict comparisons then leave out."""
    entropy_BT = torch.linspace(0.80, 0.85, 101)[None]
    assert entropy_BT.bfloat16().unique().numel() < 20
    low_BT, high_BT = entropy_partition(entropy_BT, torch.ones(1, 101, dtype=torch.bool))
    assert (int(low_BT.sum()), int(high_BT.sum())) == (20, 50)
    with pytest.raises(TypeError, match="float32"):
        entropy_partition(entropy_BT.to(dtype), torch.ones(1, 101, dtype=torch.bool))


def test_quantiles_out_of_order_are_refused() -> None:
    """Low above high would put tokens into both sets."""
    with pytest.raises(ValueError, match="low_quantile"):
        entropy_partition(row(0.1, 0.2), torch.ones(1, 2, dtype=torch.bool), 0.6, 0.5)


@PROPERTY
@given(data=st.data())
def test_agrees_with_numpy_row_by_row(data: st.DataObject) -> None:
    """Any mask, empty rows included: the sets are those of np.percentile over valid tokens only,
    whatever the padding holds."""
    rows = data.draw(st.integers(1, 4))
    columns = data.draw(st.integers(1, 9))
    values = data.draw(st.lists(FLOAT, min_size=rows * columns, max_size=rows * columns))
    valid = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    entropy_BT = torch.tensor(values, dtype=torch.float32).view(rows, columns)
    mask_BT = torch.tensor(valid).view(rows, columns)
    padding = data.draw(st.sampled_from([0.0, -5.0, torch.inf, torch.nan]))
    low_BT, high_BT = entropy_partition(torch.where(mask_BT, entropy_BT, padding), mask_BT)
    for index in range(rows):
        kept = entropy_BT[index][mask_BT[index]].double().numpy()
        low = np.zeros(columns, dtype=bool)
        high = np.zeros(columns, dtype=bool)
        if len(kept):
            low[mask_BT[index].numpy()] = kept < np.percentile(kept, 20.0)
            high[mask_BT[index].numpy()] = kept > np.percentile(kept, 50.0)
        distance = np.abs(np.subtract.outer(kept, kept))
        # np.percentile rounds differently: where values almost tie either answer is right.
        if not len(kept) or (distance[distance > 0] > 1e-12).all():
            assert low_BT[index].tolist() == low.tolist()
            assert high_BT[index].tolist() == high.tolist()
    assert not (low_BT & high_BT).any()
    assert not ((low_BT | high_BT) & ~mask_BT).any()


@PROPERTY
@given(values=st.lists(FLOAT, min_size=2, max_size=10, unique=True), seed=st.integers(0, 1000))
def test_permutation_of_tokens_and_rows(values: list[float], seed: int) -> None:
    """Sets follow their tokens and their trajectories."""
    generator = torch.Generator().manual_seed(seed)
    entropy_BT = torch.tensor([values, values[::-1]], dtype=torch.float32)
    mask_BT = torch.rand(entropy_BT.shape, generator=generator) < 0.8
    order_T = torch.randperm(len(values), generator=generator)
    sets = entropy_partition(entropy_BT, mask_BT)
    permuted = entropy_partition(entropy_BT[:, order_T].flip(0), mask_BT[:, order_T].flip(0))
    for before, after in zip(sets, permuted, strict=True):
        assert torch.equal(before[:, order_T].flip(0), after)


COT_BT = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
IMAGE_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)
ENTROPY_BT = torch.tensor([[0.1, 0.2, 0.3, 5, 6, 7, 8], [9, 9, 9, 4, 3, 2, 1]], dtype=torch.float32)


def test_modalities_are_ranked_separately() -> None:
    """Image entropies far over the CoT's do not push all CoT tokens into the low set; a trajectory
    with an empty CoT has an ordinary image partition."""
    low_BT, high_BT = partition_by_modality(ENTROPY_BT, COT_BT, IMAGE_BT, "both")
    assert low_BT.int().tolist() == [[1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]
    assert high_BT.int().tolist() == [[0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("modalities", "on_BT"),
    [("cot", COT_BT), ("image", IMAGE_BT), ("none", torch.zeros_like(COT_BT))],
)
def test_ablations_are_both_restricted(modalities: Modalities, on_BT: Tensor) -> None:
    """Only-CoT, only-image and none are the sets of both, cut to the modality."""
    both = partition_by_modality(ENTROPY_BT, COT_BT, IMAGE_BT, "both")
    some = partition_by_modality(ENTROPY_BT, COT_BT, IMAGE_BT, modalities)
    for whole, part in zip(both, some, strict=True):
        assert torch.equal(part, whole & on_BT)
