"""Entropy control: its coefficients, what they add to the token advantages, and its state."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from learner_settings import learner_settings

from benchmarks.torch_model import TorchModel
from benchmarks.trajectories import TINY_SPECIAL
from learner.algorithm.methods.entropy_control import Controller, EntropyCredit
from learner.shares import TrainingGroup, split_over_ranks
from learner.update import Updater
from policy.checkpoint.loading import load_policy
from policy.errors import UserError

CONTROL = {"entropy_control": {"cot_target": 2.0, "image_target": 3.0}}


def test_coefficients_literal() -> None:
    """Target 7 and batch means 7.5, 7.2, 6 and 6: the coefficients used in these four steps, and
    the one that is left. A batch without such tokens moves nothing."""
    controller, used = Controller(), []
    for entropy in (7.5, 7.2, 6.0, 6.0):
        used.append(controller.alpha)
        controller = controller.moved(entropy, 7.0, 5e-5, 0.005)
    assert used == pytest.approx([0.0, 5e-5, 9.4929e-5, 8.3256e-5], abs=1e-9)
    assert controller.alpha == pytest.approx(5.6872e-5, abs=1e-9)
    assert controller.moved(math.nan, 7.0, 5e-5, 0.005) == controller


@pytest.mark.parametrize(("entropy", "bound"), [(9.0, 0.005), (1.0, -0.005)])
def test_coefficients_stay_within_their_limit(entropy: float, bound: float) -> None:
    """Reached after about a hundred steps on one side of the target, with either sign."""
    controller = Controller()
    for _ in range(120):
        controller = controller.moved(entropy, 7.0, 5e-5, 0.005)
    assert controller.alpha == pytest.approx(bound)


def test_added_advantage_literal() -> None:
    """alpha 0.005 and both modalities of as many tokens: alpha (lp + H), and 0 on padding. The
    normalised entropies 0.25 and 0.72 of vocabularies of e^10 are 2.5 and 7.2 nats."""
    credit = EntropyCredit(cot_factor=0.005, image_factor=0.005, cot_nats=10.0, image_nats=10.0)
    added_BT = credit.added_advantage(
        torch.tensor([[-1.0, torch.nan, -8.0]]),
        torch.tensor([[0.25, torch.nan, 0.72]]),
        torch.tensor([[True, False, False]]),
        torch.tensor([[False, False, True]]),
    )
    torch.testing.assert_close(added_BT, torch.tensor([[0.0075, 0.0, -0.004]]))


def test_the_addition_is_the_gradient_of_the_entropy() -> None:
    """Enumerated over the vocabulary: the expected gradient of the surrogate with A~ = alpha
    (lp + H) is that of -alpha H, which the loss would have as a term."""
    logits_V = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    logprob_V = logits_V.log_softmax(0)
    probability_V = logprob_V.detach().exp()
    entropy = -(logprob_V.exp() * logprob_V).sum()
    (expected_V,) = torch.autograd.grad(-0.005 * entropy, logits_V, retain_graph=True)
    credit_V = 0.005 * (logprob_V + entropy).detach()
    (found_V,) = torch.autograd.grad((probability_V * credit_V * logprob_V).sum(), logits_V)
    torch.testing.assert_close(found_V, expected_V)


def test_micro_batches_change_nothing_and_the_coefficients_act(checkpoint: Path, batch) -> None:
    """With coefficients that differ from 0, one micro-batch or seven give one metrics row, and
    another gradient than without control. A group of equal rewards is moved too."""
    still = [TrainingGroup(group.group, (0.0,) * 4) for group in batch]
    rows = []
    for algorithm, size in ((CONTROL, 8), (CONTROL, 1), ({}, 8)):
        settings = learner_settings(checkpoint, algorithm, micro_batch_size=size)
        policy = load_policy(checkpoint)
        model = TorchModel(policy, TINY_SPECIAL, settings, policy.device)
        updater = Updater(model, settings, TINY_SPECIAL)
        if updater.entropy_control is not None:
            updater.entropy_control.cot = Controller(psi=0.004)
            updater.entropy_control.image = Controller(psi=-0.003)
        rows.append(updater.update(split_over_ranks(still, 1)[0], 0))
    assert rows[0] == pytest.approx(rows[1], rel=1e-4, abs=1e-5, nan_ok=True)
    assert rows[0]["entropy_control/cot"] == pytest.approx(0.004, rel=1e-4)
    assert rows[0]["grad_norm"] > 1e-4 > rows[2]["grad_norm"]


def test_the_coefficients_go_on_from_a_checkpoint(make_rank, batch, tmp_path: Path) -> None:
    """To the bit. A checkpoint of a run without control is refused by one line."""
    share = split_over_ranks(batch, 1)[0]
    first = make_rank(CONTROL)
    first.update(share)
    assert first._updater.entropy_control.cot.alpha != 0.0
    first.save(tmp_path / "controlled")
    second = make_rank(CONTROL)
    second.load(tmp_path / "controlled")
    for name in ("cot", "image"):
        ours, theirs = (getattr(r._updater.entropy_control, name) for r in (first, second))
        assert ours == theirs
    make_rank().save(tmp_path / "plain")
    with pytest.raises(UserError, match=r"has no entropy_control\.json: it is of a run without"):
        second.load(tmp_path / "plain")
