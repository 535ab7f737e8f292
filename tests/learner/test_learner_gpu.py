"""An update on a GPU, as far as a CPU can show it: no operation mixes devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from learner_settings import learner_settings
from pretend_gpu import GPU, a_gpu
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.torch_model import TorchModel
from benchmarks.trajectories import AS_PAPER, TINY_SPECIAL
from learner.shares import GroupSlice, split_over_ranks
from learner.update import Updater
from policy.checkpoint.loading import load_policy
from policy.weights import checksum, pack, unpack

pytestmark = pytest.mark.gpu


def update(
    checkpoint: Path, share: list[GroupSlice], device: str, version: int, learner, algorithm
) -> dict[str, float]:
    """The metrics of one update in two micro-batches, and the sum of what it publishes."""
    settings = learner_settings(
        checkpoint, algorithm, guidance_scale=2.0, learning_rate=1e-2, micro_batch_size=4,
        device=device, gpus_per_rank=float(device == "cuda"), **learner,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = load_policy(checkpoint, getattr(torch, settings.dtype)).to(device)
    model = TorchModel(policy, TINY_SPECIAL, settings, policy.device)
    row = Updater(model, settings, TINY_SPECIAL).update(share, version)
    named = policy.trained_parameters()
    trained = named if model.adapter is None else model.adapter.factors()
    total = sum(float(tensor.double().sum()) for _, tensor in unpack(pack(trained)))
    return row | {"weights": total}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "algorithm", "version"),
    [
        ({}, {"importance_cap": 2.0}, 1),
        ({"gradient_checkpointing": True}, AS_PAPER, 0),
        ({"lora": {"rank": 2}}, {"trained_distribution": "guided"}, 0),
        ({"dtype": "bfloat16", "zero_stage": 2}, {"bonus": "budget-exact"}, 1),
    ],
    ids=str,
)
def test_an_update_leaves_the_gpu_as_it_leaves_the_cpu(
    checkpoint: Path, batch, learner, algorithm, version: int
) -> None:
    """Of fresh (version 0) and of stale trajectories, in each of the learner's ways: the same
    metrics and weights, to rounding."""
    share = split_over_ranks(batch, 1)[0]
    with sdpa_kernel(SDPBackend.MATH):  # the pretended GPU knows no other
        expected = update(checkpoint, share, "cpu", version, learner, algorithm)
    with a_gpu():
        row = update(checkpoint, share, "cuda", version, learner, algorithm)
    tolerance = 0.05 if "dtype" in learner else 1e-4
    assert row == pytest.approx(expected, rel=tolerance, abs=tolerance / 100, nan_ok=True)


def test_the_weights_leave_the_gpu(checkpoint: Path) -> None:
    """Packed on a GPU they are the bytes that they are on a CPU."""
    policy = load_policy(checkpoint)
    expected = checksum(pack(policy.trained_parameters()))
    with a_gpu():
        policy.to("cuda")
        assert policy.device == GPU
        assert checksum(pack(policy.trained_parameters())) == expected
