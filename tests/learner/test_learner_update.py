"""An update does not depend on what carries the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trajectories import TINY_SPECIAL

from benchmarks.torch_model import TorchModel
from learner.batch import split_over_ranks
from learner.config import AlgorithmConfig, LearnerConfig
from learner.settings import LearnerSettings
from learner.update import Updater
from policy.loading import load_policy
from policy.weights import unpack


@pytest.mark.parametrize(
    "learner",
    [
        dict(zero_stage=0),
        dict(zero_stage=2),
        dict(zero_stage=2, dtype="bfloat16"),
        dict(zero_stage=0, lora={"rank": 4}),
    ],
    ids=str,
)
def test_torch_alone_updates_as_deepspeed_does(make_rank, checkpoint: Path, batch, learner) -> None:
    """One update in two micro-batches: the same metrics, and the same weights, to rounding."""
    share = split_over_ranks(batch, 1)[0]
    learner = {"learning_rate": 1e-2, "micro_batch_size": 4, **learner}
    rank = make_rank(**learner)
    expected_row = rank.update(share)
    expected = dict(unpack(rank.publish()[1]))

    config = LearnerConfig(**learner)
    settings = LearnerSettings(config, AlgorithmConfig(), checkpoint, total_steps=10)
    policy = load_policy(checkpoint, getattr(torch, config.dtype))
    model = TorchModel(policy, TINY_SPECIAL, settings, policy.device)
    row = Updater(model, settings, TINY_SPECIAL).update(share, 0)
    assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-6)
    named = policy.trained_parameters()
    trained = dict(named if model.adapter is None else model.adapter.merged_tensors(
        named, policy.device))  # fmt: skip
    for name, tensor in expected.items():
        assert torch.allclose(trained[name].detach(), tensor, rtol=1e-2, atol=1e-4), name
