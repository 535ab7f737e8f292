"""What the run relies on DeepSpeed for, at each ZeRO stage; pyproject.toml names the version.

That a gradient which is not finite is reported and skipped is in ``test_learner_skipped``.
"""

from __future__ import annotations

import math
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from learner_state import optimizer_and_masters

from learner.shares import split_over_ranks
from policy.checkpoint.loading import load_policy

STAGES = [
    *(dict(zero_stage=stage) for stage in (0, 1, 2, 3)),
    *(dict(zero_stage=stage, dtype="bfloat16") for stage in (1, 2, 3)),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", STAGES, ids=str)
def test_float32_stays_float32(make_rank, checkpoint, batch, settings):
    """Buffers keep the bits and type that they were loaded with, rotary frequencies above all, in
    the policy and in its reference; AdamW holds master weights and averages in float32, of which
    the live weights are the rounding."""
    rank = make_rank(micro_batch_size=3, **settings)
    dtype = getattr(torch, settings.get("dtype", "float32"))
    loaded = dict(load_policy(checkpoint, dtype).model.named_buffers())
    frequencies = [name for name in loaded if name.endswith("inv_freq")]
    assert frequencies
    row = rank.update(split_over_ranks(batch, 1)[0])
    assert math.isfinite(row["grad_norm"])
    assert row["grad_norm"] > 0
    for policy in (rank._model._policy, rank._model.reference):
        buffers = dict(policy.model.named_buffers())
        assert buffers.keys() == loaded.keys()
        for name, buffer in buffers.items():
            assert torch.equal(buffer, loaded[name]), name
            assert buffer.dtype == loaded[name].dtype, name
        assert all(buffers[name].dtype == torch.float32 for name in frequencies)
    optimizer, masters = optimizer_and_masters(rank)
    assert {p.dtype for p in masters} == {torch.float32}
    averages = [t for state in optimizer.state.values() for t in state.values()]
    assert averages
    assert {t.dtype for t in averages} == {torch.float32}
    live = dict(rank._model.trained_tensors())
    assert {t.dtype for t in live.values()} == {dtype}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_stage_reports_one_norm(make_rank, batch, dtype):
    """The gradient norm of an update in several micro-batches, before clipping, is that of ZeRO 0
    in float32: to rounding, and in bfloat16 to that of its passes."""
    share = split_over_ranks(batch, 1)[0]
    expected = make_rank(micro_batch_size=8).update(share)["grad_norm"]
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for stage in (1, 2, 3):
        row = make_rank(micro_batch_size=2, zero_stage=stage, dtype=dtype).update(share)
        assert row["grad_norm"] == pytest.approx(expected, rel=tolerance)


def test_the_pin_names_the_version_that_runs_here():
    """No other release has been through these tests."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"deepspeed=={version('deepspeed')}" in project["dependencies"]
