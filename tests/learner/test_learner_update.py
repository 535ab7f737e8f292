"""An update does not depend on what carries the gradients, and tells of its trajectories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_settings import learner_settings

from benchmarks.published import published_weights
from benchmarks.torch_model import TorchModel
from benchmarks.trajectories import TINY_SPECIAL
from learner.algorithm.loss_metrics import add_metrics, finish_metrics
from learner.batch_loss import trajectory_metrics
from learner.micro_batches import TrainingTrajectory
from learner.shares import split_over_ranks
from learner.update import Updater
from policy.checkpoint.loading import load_policy
from policy.types import Prompt
from policy.weights import unpack
from tests.image_groups import image_group


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
    expected = dict(unpack(published_weights(rank)[1]))

    settings = learner_settings(checkpoint, **learner)
    policy = load_policy(checkpoint, getattr(torch, settings.dtype))
    model = TorchModel(policy, TINY_SPECIAL, settings, policy.device)
    row = Updater(model, settings, TINY_SPECIAL).update(share, 0)
    assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-6)
    named = policy.trained_parameters()
    trained = dict(named if model.adapter is None else model.adapter.factors())
    for name, tensor in expected.items():
        assert torch.allclose(trained[name].detach(), tensor, rtol=1e-2, atol=1e-4), name


def test_a_cot_that_does_not_end_with_eos_was_cut() -> None:
    """Of four CoTs of three tokens at most, one ends early, one just in time, two are cut: one of
    them has an EOS of the prompt's kind in its middle only. Shares add over ranks, also empty ones.
    """
    eos = TINY_SPECIAL.eos
    cots = [[9, eos], [9, 8, eos], [9, 8, 7], [9, eos, 7]]
    prompt = Prompt(id="p", text="a red circle", task_type="color")
    items = [
        TrainingTrajectory(replace(t, cot_ids=np.array(ids, dtype=np.int32)), 1.0, True)
        for t, ids in zip(image_group(prompt, [0] * 4).trajectories, cots, strict=True)
    ]
    assert finish_metrics(trajectory_metrics(items, 0, eos))["cot_length/capped"] == 0.5
    shares = [trajectory_metrics(part, 0, eos) for part in (items[:3], items[3:], [])]
    assert finish_metrics(add_metrics(shares))["cot_length/capped"] == 0.5
    assert finish_metrics(shares[0])["cot_length/capped"] == pytest.approx(1 / 3)
    assert finish_metrics(shares[0])["cot_length/mean"] == pytest.approx(8 / 3)
