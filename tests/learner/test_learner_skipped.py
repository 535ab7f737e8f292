"""An update whose loss or gradient is not finite leaves no trace, at every ZeRO stage."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from learner_state import optimizer_and_masters
from rank_processes import Scenario, run_ranks

from benchmarks.published import published_weights
from learner.shares import TrainingGroup, split_over_ranks
from policy.types import Group
from policy.weights import unpack

CONSTANT = dict(learning_rate=1e-2, schedule="constant")  # no skipped step shows in the rate
QUICK = [dict(zero_stage=stage) for stage in (0, 2)]
OTHERS = [
    *(dict(zero_stage=stage) for stage in (1, 3)),
    *(dict(zero_stage=stage, dtype="bfloat16") for stage in (1, 2, 3)),
    dict(zero_stage=1, offload_optimizer=True),
    dict(zero_stage=1, dtype="bfloat16", offload_optimizer=True),
    dict(zero_stage=2, offload_optimizer=True),
    dict(zero_stage=2, dtype="bfloat16", offload_optimizer=True),
    dict(zero_stage=3, dtype="bfloat16", offload_optimizer=True),
    dict(zero_stage=3, offload_optimizer=True, offload_parameters=True),
    dict(zero_stage=0, lora={"rank": 4}),
    dict(zero_stage=3, lora={"rank": 4}),
]


def at_version(batch, version):
    return [
        TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for item in batch
    ]


def spoilt(batch):
    """One advantage is NaN: that of the last trajectory, which the last rank holds."""
    *others, last = batch
    return [*others, TrainingGroup(last.group, (*last.advantages[:-1], math.nan))]


def too_large(batch):
    """Advantages of 1e25: loss and gradient are finite, but the square of the gradient's norm is
    not in float32, so that no clipping could be computed."""
    return [
        TrainingGroup(item.group, tuple(None if a is None else a * 1e25 for a in item.advantages))
        for item in batch
    ]


def held(rank):
    """Every tensor that an update changes: live and master weights, and AdamW's state."""
    optimizer, masters = optimizer_and_masters(rank)
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*masters, *dict(unpack(published_weights(rank)[1])).values(), *states]
    return [tensor.detach().clone() for tensor in tensors]


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=SLOW) for kind in OTHERS)], ids=str
)
def test_a_bad_batch_changes_nothing(make_rank, batch, kind):
    """Weights, master weights and optimizer are the same bits before and after it, first of all
    updates or later; the next update is that of a twin that never saw it."""
    changes_nothing(make_rank, batch, kind, spoilt)


def squares_in_float32(kind):
    """Whether the norm is a sum of squares in float32. At ZeRO 3 on the device it is not."""
    return kind["zero_stage"] < 3 or "offload_optimizer" in kind


@pytest.mark.parametrize(
    "kind",
    [*QUICK, *(pytest.param(kind, marks=SLOW) for kind in OTHERS if squares_in_float32(kind))],
    ids=str,
)
def test_a_gradient_without_a_norm_changes_nothing(make_rank, batch, kind):
    """The same for a gradient that is finite, but whose norm overflows."""
    row = changes_nothing(make_rank, batch, kind, too_large)
    assert math.isfinite(row["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in OTHERS if not squares_in_float32(kind)], ids=str)
def test_a_large_gradient_with_a_norm_is_clipped(make_rank, batch, kind):
    """Where the norm of that gradient is known, the update is made, and all numbers stay finite."""
    rank = make_rank(**{**CONSTANT, "micro_batch_size": 3, **kind})
    before = held(rank)
    row = rank.update(split_over_ranks(too_large(batch), 1)[0])
    assert (1e19 < row["grad_norm"] < math.inf, row["updates/skipped"]) == (True, 0)
    after = held(rank)
    assert all(bool(tensor.isfinite().all()) for tensor in after)
    assert not same(after[: len(before)], before)


def changes_nothing(make_rank, batch, kind, spoil):
    """The row of the last update that was skipped."""
    options = {**CONSTANT, "micro_batch_size": 3, **kind}
    twin, rank = make_rank(**options), make_rank(**options)
    for clean in range(2):
        before = held(rank)
        bad = split_over_ranks(at_version(spoil(batch), rank.weight_version), 1)[0]
        row = rank.update(bad)
        assert row["updates/skipped"] == 1
        assert not math.isfinite(row["grad_norm"])
        after = held(rank)
        # The first update of all makes AdamW's state; there is none to compare before it.
        assert same(after[: len(before)], before) if clean else same(after, before)
        rows = [
            one.update(split_over_ranks(at_version(batch, one.weight_version), 1)[0])
            for one in (rank, twin)
        ]
        assert rows[0] == rows[1]
        assert rows[0]["updates/skipped"] == 0
        assert same(held(rank), held(twin))
        assert not same(held(rank), before)
    assert (rank.weight_version, twin.weight_version) == (4, 2)
    return row


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_loss_that_is_no_number_counts_without_its_gradient(
    make_rank, batch, zero_stage, monkeypatch
):
    """A token the reference thinks impossible has k3 = inf, and a gradient that is finite."""
    rank = make_rank(zero_stage=zero_stage)
    before = held(rank)
    monkeypatch.setattr(
        rank._model,
        "reference_logprobs",
        lambda tokens: torch.full(tokens.mask_BT.shape, -torch.inf),
    )
    row = rank.update(split_over_ranks(batch, 1)[0])
    assert (row["loss"], row["updates/skipped"]) == (math.inf, 1)
    assert same(held(rank)[: len(before)], before)


@pytest.mark.slow
def test_all_ranks_skip_what_one_of_them_cannot_train_on(checkpoint, batch, tmp_path, free_port):
    """Two ranks, of which one holds the NaN: both leave their weights, and end where two ranks do
    that never saw the batch."""
    scenarios = []
    for stage in (0, 1, 2, 3):
        options = {**CONSTANT, "zero_stage": stage, "micro_batch_size": 3}
        scenarios += [
            Scenario(f"skipped-{stage}", [spoilt(batch), at_version(batch, 1)], options),
            Scenario(f"twin-{stage}", [batch], options),
        ]
    results = run_ranks(scenarios, checkpoint, tmp_path, free_port)
    for stage in (0, 1, 2, 3):
        (weights, rows), (expected, expected_rows) = (
            results[f"{name}-{stage}"] for name in ("skipped", "twin")
        )
        assert rows[0]["updates/skipped"] == 1
        assert rows[1] == expected_rows[0]
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
