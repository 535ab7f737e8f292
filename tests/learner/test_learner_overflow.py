"""Log-ratios whose exponential overflows in float32 give the numbers of the limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import counts_of, example, loss_and_gradient

from learner.algorithm.kl import MAX_LOG_RATIO, k3
from learner.algorithm.loss_metrics import exact_ratio, finish_metrics
from learner.algorithm.objective import (
    ObjectiveSettings,
    eg_grpo_loss,
    policy_surrogate_clipped,
    truncated_importance_weight,
)

PROPERTY = settings(max_examples=200, deadline=None, derandomize=True)


def k3_and_gradient(log_ratio: float) -> tuple[float, float]:
    """At reference log-prob minus policy log-prob; the gradient is by the policy's."""
    logprob = torch.tensor([-log_ratio], requires_grad=True)
    k3(logprob, torch.zeros(1)).sum().backward()
    assert logprob.grad is not None
    return float(k3(logprob.detach(), torch.zeros(1))), float(logprob.grad)


@PROPERTY
@given(log_ratio=st.floats(-80.0, MAX_LOG_RATIO, width=32))
def test_k3_below_the_bound_is_untouched(log_ratio: float) -> None:
    """exp(d) - d - 1 and 1 - exp(d), as float64 has them."""
    value, gradient = k3_and_gradient(log_ratio)
    assert value == pytest.approx(math.expm1(log_ratio) - log_ratio, rel=1e-5, abs=1e-6)
    assert gradient == pytest.approx(-math.expm1(log_ratio), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("log_ratio", [40.5, 89.0, 1000.0, 1e18])
def test_k3_beyond_the_bound_is_its_tangent(log_ratio: float) -> None:
    """At 89 nats exp overflows in float32. Value e^40 (1 + d - 40) - d - 1 and gradient 1 - e^40
    are finite, and the square of the gradient is, which its norm needs."""
    value, gradient = k3_and_gradient(log_ratio)
    assert value == pytest.approx(math.exp(40) * (log_ratio - 39) - log_ratio - 1, rel=1e-5)
    assert gradient == pytest.approx(-math.expm1(40), rel=1e-5)
    assert torch.tensor(gradient).square().isfinite()


def test_without_beta_there_is_no_kl_term() -> None:
    """kl_beta 0: a log-ratio of 1000 nats, or no reference at all, changes nothing, and no kl/mean
    is made up; with a beta the reference must be there."""
    batch, off = example(), ObjectiveSettings(kl_beta=0.0)
    far = replace(batch, reference_logprob_BT=batch.logprob_BT + 1000.0)
    none = replace(batch, reference_logprob_BT=None)
    loss, gradient_BT = loss_and_gradient(none, off)
    assert loss.isfinite()
    for other in (far, replace(batch, reference_logprob_BT=batch.logprob_BT + torch.inf)):
        other_loss, other_BT = loss_and_gradient(other, off)
        assert torch.equal(other_loss, loss)
        assert torch.equal(other_BT, gradient_BT)
    assert "kl/mean" not in eg_grpo_loss(none, off, counts_of(batch))[1]
    with pytest.raises(ValueError, match="reference"):
        eg_grpo_loss(none, ObjectiveSettings(), counts_of(batch))


@pytest.mark.parametrize("log_ratio", [89.0, 1000.0, math.inf])
def test_a_ratio_beyond_range_on_tokens_that_do_not_use_it(log_ratio: float) -> None:
    """A~ = 0, as low tokens have, gives 0; A~ > 0 is clipped at 1.2 A~; neither has a gradient.
    With dual clip A~ < 0 gives 3 A~, without gradient. Ordinary tokens beside them keep theirs."""
    advantage_BT = torch.tensor([[0.0, 2.0, -2.0, 2.0, -2.0]])
    logprob_BT = torch.tensor([[log_ratio] * 3 + [0.1] * 2], requires_grad=True)
    surrogate_BT = policy_surrogate_clipped(
        logprob_BT, torch.zeros(1, 5), advantage_BT, 0.2, 0.2, dual_clip=3.0
    )
    surrogate_BT.sum().backward()
    ordinary = 2 * math.exp(0.1)
    torch.testing.assert_close(surrogate_BT, torch.tensor([[0.0, 2.4, -6.0, ordinary, -ordinary]]))
    torch.testing.assert_close(
        logprob_BT.grad, torch.tensor([[0.0, 0.0, 0.0, ordinary, -ordinary]])
    )


def test_without_dual_clip_nothing_bounds_a_negative_token() -> None:
    """Its surrogate is the paper's, infinite, which the update notices: no number is made up."""
    surrogate_BT = policy_surrogate_clipped(
        torch.tensor([[89.0]]), torch.zeros(1, 1), torch.tensor([[-1.0]]), 0.2, 0.2
    )
    assert surrogate_BT.tolist() == [[-math.inf]]


def test_dual_clip_literal() -> None:
    """Ratios 2, 3 and 4 under A~ = -1 and a bound of 3: the last stands at 3 and has no gradient;
    under A~ = 1 all are clipped at 1.2 as ever. ratio/clipped counts it."""
    ratio_BT = torch.tensor([[2.0, 3.0, 4.0, 2.0]])
    logprob_BT = ratio_BT.log().requires_grad_()
    advantage_BT = torch.tensor([[-1.0, -1.0, -1.0, 1.0]])
    surrogate_BT = policy_surrogate_clipped(
        logprob_BT, torch.zeros(1, 4), advantage_BT, 0.2, 0.2, dual_clip=3.5
    )
    surrogate_BT.sum().backward()
    torch.testing.assert_close(surrogate_BT, torch.tensor([[-2.0, -3.0, -3.5, 1.2]]))
    torch.testing.assert_close(logprob_BT.grad, torch.tensor([[-2.0, -3.0, 0.0, 0.0]]))

    batch = replace(
        example((0,)),
        advantage_B=torch.tensor([-1.0]),
        logprob_BT=torch.zeros(1, 14),
        behaviour_logprob_BT=torch.tensor([[0.0] * 6 + [-1.5] * 2 + [-0.1] * 6]),
    )
    for dual_clip, clipped in ((None, 0.0), (3.0, 2 / 8)):
        objective = ObjectiveSettings(modalities="none", dual_clip=dual_clip)
        metrics = finish_metrics(eg_grpo_loss(batch, objective, counts_of(batch))[1])
        assert metrics["ratio/clipped"] == clipped


@PROPERTY
@given(
    log_ratio=st.floats(-5.0, 5.0, width=32),
    advantage=st.floats(-3.0, 3.0, width=32),
    clip_high=st.sampled_from([0.2, 0.3]),
)
def test_the_clipped_surrogate_is_ppo_s(
    log_ratio: float, advantage: float, clip_high: float
) -> None:
    """Value and gradient are those of min(ratio A, clip(ratio) A), as torch differentiates it."""
    results = []
    for ours in (True, False):
        logprob = torch.tensor([log_ratio], requires_grad=True)
        a = torch.tensor([advantage])
        if ours:
            surrogate = policy_surrogate_clipped(logprob, torch.zeros(1), a, 0.2, clip_high)
        else:
            ratio = logprob.exp()
            surrogate = torch.minimum(ratio * a, ratio.clamp(1 - 0.2, 1 + clip_high) * a)
        surrogate.sum().backward()
        results.append((surrogate.detach(), logprob.grad))
    (value, gradient), (expected, expected_gradient) = results
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient)


def test_infinite_ratios_elsewhere() -> None:
    """The importance weight is its cap, and a metric shows e^100, which no float32 holds."""
    weight_BT = truncated_importance_weight(torch.tensor([100.0]), torch.zeros(1), 2.0)
    assert weight_BT.tolist() == [2.0]
    batch = example()
    batch = replace(batch, behaviour_logprob_BT=batch.logprob_BT - 100.0, advantage_B=torch.ones(5))
    assert eg_grpo_loss(batch, ObjectiveSettings(), counts_of(batch))[0].isfinite()
    ratio_BT = exact_ratio(batch.logprob_BT, batch.logprob_BT - 100.0)
    assert ratio_BT.mean().item() == pytest.approx(math.exp(100.0), rel=1e-4)


def test_the_whole_loss_stays_finite_and_so_does_its_gradient() -> None:
    """Ratios of e^1000 and a reference 1000 nats above, with low tokens and A = 0 among them, under
    dual clip: loss and gradient are numbers."""
    batch = example()
    batch = replace(
        batch,
        behaviour_logprob_BT=batch.logprob_BT - 1000.0,
        reference_logprob_BT=batch.logprob_BT + 1000.0,
        advantage_B=torch.tensor([1.0, -1.0, 0.0, 0.5, -0.5]),
    )
    for bonus in ("capped", "budget"):
        objective = ObjectiveSettings(dual_clip=3.0, bonus=bonus)
        loss, gradient_BT = loss_and_gradient(batch, objective)
        assert loss.isfinite()
        assert gradient_BT.isfinite().all()
