"""Distillation of guidance with a weight of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from learner_settings import learner_settings
from loss_batches import loss_and_gradient

from benchmarks.torch_model import TorchModel
from benchmarks.trajectories import TINY_SPECIAL
from learner.algorithm.methods.distillation import distillation_advantage
from learner.algorithm.objective import LossBatch, ObjectiveSettings
from learner.micro_batches import TrainingGroup, split_over_ranks
from learner.update import Updater
from policy.checkpoint.loading import load_policy


def test_addition_literal() -> None:
    """A CoT token, an image token and padding."""
    image_BT = torch.tensor([[False, True, False]])
    added_BT = distillation_advantage(0.1, image_BT)
    torch.testing.assert_close(added_BT, torch.tensor([[0.0, 0.1, 0.0]]))


def test_loss_literal() -> None:
    """GRPO of a CoT token and an image token, A = -0.5 and d = 0.2: the CoT token has -0.5, the
    image token -0.3, each with the weight 1/2."""
    image_BT = torch.tensor([[False, True]])
    batch = LossBatch(
        logprob_BT=torch.tensor([[-1.0, -2.0]]),
        reference_logprob_BT=None,
        cot_mask_BT=~image_BT,
        image_mask_BT=image_BT,
        advantage_B=torch.tensor([-0.5]),
        has_variance_B=torch.tensor([True]),
        entropy_BT=None,
        added_advantage_BT=distillation_advantage(0.2, image_BT),
    )
    objective = ObjectiveSettings(modalities="none", kl_beta=0.0)
    loss, gradient_BT = loss_and_gradient(batch, objective)
    assert loss.item() == pytest.approx(0.5 / 2 + 0.3 / 2)
    torch.testing.assert_close(gradient_BT, torch.tensor([[0.5 / 2, 0.3 / 2]]))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_addition_is_the_gradient_of_the_divergence(scale: float) -> None:
    """Enumerated over the codebook, tokens drawn from pi_w: the expected gradient of the surrogate
    with A~ = d is that of -d KL(pi_w || pi). Without guidance it is zero."""
    conditional_V = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    unconditional_V = torch.tensor([0.5, 0.1, -0.2, 0.4], dtype=torch.float64)
    logprob_V = conditional_V.log_softmax(0)
    guided_V = torch.lerp(unconditional_V, conditional_V.detach(), scale).softmax(0)
    divergence = (guided_V * (guided_V.log() - logprob_V)).sum()
    (expected_V,) = torch.autograd.grad(-0.1 * divergence, conditional_V, retain_graph=True)
    credit_V = distillation_advantage(0.1, torch.ones(4, dtype=torch.bool))
    (found_V,) = torch.autograd.grad((guided_V * credit_V * logprob_V).sum(), conditional_V)
    torch.testing.assert_close(found_V, expected_V, atol=1e-8, rtol=1e-6)
    assert math.isclose(float(found_V.norm()), 0.0, abs_tol=1e-9) == (scale == 1.0)


def test_micro_batches_change_nothing_and_equal_rewards_are_moved(checkpoint: Path, batch) -> None:
    """One micro-batch or seven give one metrics row. Groups of equal rewards have no gradient
    without the weight; with it, and with entropy control beside it, they have."""
    still = [TrainingGroup(group.group, (0.0,) * 4) for group in batch]
    control = {"entropy_control": {"cot_target": 2.0, "image_target": 3.0}}
    rows = []
    for algorithm, size in (
        ({"distillation_weight": 0.1}, 8),
        ({"distillation_weight": 0.1}, 1),
        ({"distillation_weight": 0.1, **control}, 8),  # its coefficients begin at 0
        ({}, 8),
    ):
        settings = learner_settings(checkpoint, algorithm, micro_batch_size=size)
        policy = load_policy(checkpoint)
        model = TorchModel(policy, TINY_SPECIAL, settings, policy.device)
        updater = Updater(model, settings, TINY_SPECIAL)
        rows.append(updater.update(split_over_ranks(still, 1)[0], 0))
    one, seven, controlled, without = rows
    assert one == pytest.approx(seven, rel=1e-4, abs=1e-5, nan_ok=True)
    assert controlled["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    assert one["grad_norm"] > 1e-2
    assert without["grad_norm"] < 1e-4
