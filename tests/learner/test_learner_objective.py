"""The objective (eq. 9 and 10), the KL estimators and the metrics."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import COT_COLUMNS, IMAGE_COLUMNS, counts_of, example, loss_and_gradient
from torch import Tensor

from learner.algorithm.advantages import group_advantages, has_variance
from learner.algorithm.choices import Aggregation, BonusRule, Modalities
from learner.algorithm.kl import KL_ESTIMATORS, k3
from learner.algorithm.loss_metrics import add_metrics, finish_metrics
from learner.algorithm.methods.eg_grpo import token_advantages
from learner.algorithm.objective import (
    BatchCounts,
    LossBatch,
    ObjectiveSettings,
    aggregation_weights,
    eg_grpo_loss,
    policy_surrogate_clipped,
    policy_surrogate_on_policy,
    truncated_importance_weight,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
AGGREGATIONS: list[Aggregation] = ["token-mean", "sequence-mean", "constant"]
MODALITIES: list[Modalities] = ["both", "cot", "image", "none"]


def rows_of(batch: LossBatch, index: slice | list[int]) -> LossBatch:
    part: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        part[field.name] = None if value is None else value[index]
    return LossBatch(**part)


def test_token_advantage_literal() -> None:
    """Eq. 9: low tokens 0, middle tokens A, high tokens A + b, for either sign of A."""
    low_BT = torch.tensor([[True, False, False]] * 2)
    high_BT = torch.tensor([[False, False, True]] * 2)
    bonus_BT = torch.tensor([[9.0, 9.0, 0.3], [torch.nan, torch.nan, 0.3]])
    token_advantage_BT = token_advantages(torch.tensor([1.0, -1.0]), low_BT, high_BT, bonus_BT)
    torch.testing.assert_close(token_advantage_BT, torch.tensor([[0.0, 1.0, 1.3], [0.0, -1, -0.7]]))


def test_loss_literal() -> None:
    """Two image tokens, A = 1, capped: h = 0.2 is low, h = 0.8 high with b = 0.24; the reference is
    log 2 above, so that k3 = 2 - log 2 - 1. The low token keeps the KL term."""
    batch = LossBatch(
        logprob_BT=torch.tensor([[-1.0, -2.0]]),
        reference_logprob_BT=torch.tensor([[-1.0, -2.0]]) + math.log(2.0),
        cot_mask_BT=torch.tensor([[False, False]]),
        image_mask_BT=torch.tensor([[True, True]]),
        advantage_B=torch.tensor([1.0]),
        has_variance_B=torch.tensor([True]),
        entropy_BT=torch.tensor([[0.2, 0.8]]),
    )
    loss, gradient_BT = loss_and_gradient(batch, ObjectiveSettings(kl_beta=0.1))
    assert loss.item() == pytest.approx(-1.24 / 2 + 0.1 * (1 - math.log(2.0)))
    torch.testing.assert_close(gradient_BT, torch.tensor([[-0.1 / 2, (-1.24 - 0.1) / 2]]))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("bonus", ["capped", "budget"])
def test_gradient_does_not_depend_on_the_cut(aggregation: Aggregation, bonus: BonusRule) -> None:
    """The shares of micro-batches, unequal in length and with rows of padding only, add up to the
    loss and gradient of the whole batch; so do their metrics."""
    objective = ObjectiveSettings(bonus=bonus, aggregation=aggregation, aggregation_constant=9.0)
    batch, counts = example(), counts_of(example())
    whole_loss, whole_BT = loss_and_gradient(batch, objective)
    _, whole_metrics = eg_grpo_loss(batch, objective, counts, 0.4)
    for cuts in ([0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 4, 5]):
        pieces = [slice(*cut) for cut in pairwise(cuts)]
        parts = [loss_and_gradient(rows_of(batch, piece), objective, counts) for piece in pieces]
        torch.testing.assert_close(sum(loss for loss, _ in parts), whole_loss)
        torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]), whole_BT)
        metrics = [eg_grpo_loss(rows_of(batch, p), objective, counts, 0.4)[1] for p in pieces]
        added = finish_metrics(add_metrics(metrics))
        assert added == pytest.approx(finish_metrics(whole_metrics), nan_ok=True)
    filler = rows_of(batch, [0])
    nothing_BT = torch.zeros_like(filler.cot_mask_BT)
    filler = replace(filler, cot_mask_BT=nothing_BT, image_mask_BT=nothing_BT)
    filler_loss, filler_BT = loss_and_gradient(filler, objective, counts)
    assert filler_loss == 0.0
    assert not filler_BT.any()


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("on_policy", [True, False])
def test_padding_never_matters(garbage: float, on_policy: bool) -> None:
    """Whatever masked positions and rows hold, loss and metrics are the same, and the gradient
    there is exactly 0."""
    batch = example()
    image_mask_BT = batch.image_mask_BT.clone()
    image_mask_BT[1] = False  # with its empty CoT: a row of padding only
    behaviour_BT = None if on_policy else batch.behaviour_logprob_BT
    batch = replace(batch, image_mask_BT=image_mask_BT, behaviour_logprob_BT=behaviour_BT)
    mask_BT = batch.cot_mask_BT | image_mask_BT
    spoilt = {
        field.name: torch.where(mask_BT, value, garbage)
        for field in fields(batch)
        if (value := getattr(batch, field.name)) is not None and value.is_floating_point()
        if value.dim() == 2
    }
    advantage_B = batch.advantage_B.clone()
    advantage_B[1] = garbage
    dirty = replace(batch, advantage_B=advantage_B, **spoilt)
    for objective in (ObjectiveSettings(), ObjectiveSettings(bonus="budget")):
        clean_loss, clean_BT = loss_and_gradient(batch, objective)
        dirty_loss, dirty_BT = loss_and_gradient(dirty, objective)
        assert torch.equal(clean_loss, dirty_loss)
        assert torch.equal(clean_BT, dirty_BT)
        assert not dirty_BT[~mask_BT].any()
        metrics = [
            finish_metrics(eg_grpo_loss(b, objective, counts_of(b), 0.4)[1]) for b in (batch, dirty)
        ]
        assert metrics[0] == pytest.approx(metrics[1])


@PROPERTY
@given(
    order=st.permutations(range(5)),
    modalities=st.sampled_from(MODALITIES),
    aggregation=st.sampled_from(AGGREGATIONS),
)
def test_permutation_of_trajectories(
    order: list[int], modalities: Modalities, aggregation: Aggregation
) -> None:
    """The loss is invariant and the gradient follows its trajectories."""
    objective = ObjectiveSettings(modalities=modalities, aggregation=aggregation)
    loss, gradient_BT = loss_and_gradient(example(), objective)
    permuted_loss, permuted_BT = loss_and_gradient(rows_of(example(), order), objective)
    torch.testing.assert_close(permuted_loss, loss)
    torch.testing.assert_close(permuted_BT, gradient_BT[order])


@pytest.mark.parametrize("bonus", ["capped", "budget", "budget-exact"])
def test_ablations_are_special_cases(bonus: BonusRule) -> None:
    """Only-CoT has EG-GRPO's gradient on CoT tokens and GRPO's on image tokens, only-image the
    reverse; none is GRPO, and needs no entropies."""
    batch = example()
    gradient = {
        name: loss_and_gradient(batch, ObjectiveSettings(modalities=name, bonus=bonus))[1]
        for name in MODALITIES
    }
    masks: dict[Modalities, Tensor] = {"cot": batch.cot_mask_BT, "image": batch.image_mask_BT}
    for name, on_BT in masks.items():
        expected_BT = torch.where(on_BT, gradient["both"], gradient["none"])
        assert torch.equal(gradient[name], expected_BT)
    assert not torch.equal(gradient["both"], gradient["none"])
    plain = replace(batch, entropy_BT=None)
    assert torch.equal(
        loss_and_gradient(plain, ObjectiveSettings(modalities="none"))[1], gradient["none"]
    )


def test_missing_inputs_are_refused() -> None:
    """Entropy guidance without entropies, a budget rule without lambda."""
    batch, counts = example(), counts_of(example())
    with pytest.raises(ValueError, match="entropies"):
        eg_grpo_loss(replace(batch, entropy_BT=None), ObjectiveSettings(), counts)
    with pytest.raises(ValueError, match="lambda"):
        eg_grpo_loss(batch, ObjectiveSettings(bonus="budget"), counts)


def test_equal_rewards_leave_the_kl_term_alone() -> None:
    """Corollary 5.1: with A = 0 everywhere and lambda = 0, or capped, or in a group without
    variance under any lambda, the gradient is that of the KL term."""
    batch = replace(example(), advantage_B=torch.zeros(5), behaviour_logprob_BT=None)
    logprob_BT = batch.logprob_BT.clone().requires_grad_()
    mask_BT = batch.cot_mask_BT | batch.image_mask_BT
    kl = (k3(logprob_BT, batch.reference_logprob_BT) * mask_BT).sum() / mask_BT.sum()
    (kl_BT,) = torch.autograd.grad(0.01 * kl, logprob_BT)
    no_variance = replace(batch, has_variance_B=torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(loss_and_gradient(batch, ObjectiveSettings())[1], kl_BT)
    torch.testing.assert_close(
        loss_and_gradient(no_variance, ObjectiveSettings(bonus="budget"))[1], kl_BT
    )


@pytest.mark.parametrize("bonus", ["capped", "budget", "budget-exact"])
def test_rounding_noise_earns_no_bonus(bonus: BonusRule) -> None:
    """Rewards of 0.7 and the float32 next to it: whatever lambda the other groups of the batch
    give, every token is left to the KL term, under every rule."""
    low = float(np.float32(0.7))
    high = float(np.nextafter(np.float32(0.7), np.float32(1.0)))
    advantages = group_advantages([low, high, low, low, high], 2)
    assert advantages is not None
    noise = replace(
        example(),
        advantage_B=torch.tensor(advantages),
        has_variance_B=torch.tensor([has_variance(advantages)] * 5),
    )
    objective = ObjectiveSettings(bonus=bonus)
    loss, metrics = eg_grpo_loss(noise, objective, counts_of(noise), 2.5)
    assert finish_metrics(metrics)["bonus/mean"] == 0.0
    assert finish_metrics(metrics)["advantage/abs_mean"] == 0.0
    equal = replace(noise, advantage_B=torch.zeros(5))
    assert torch.equal(loss, eg_grpo_loss(equal, objective, counts_of(noise), 2.5)[0])


def test_equal_entropies_are_grpo() -> None:
    """Both sets are empty."""
    batch = replace(example(), entropy_BT=torch.full((5, COT_COLUMNS + IMAGE_COLUMNS), 0.7))
    _, guided_BT = loss_and_gradient(batch, ObjectiveSettings())
    _, plain_BT = loss_and_gradient(batch, ObjectiveSettings(modalities="none"))
    assert torch.equal(guided_BT, plain_BT)


def test_staleness_zero_has_ratio_one() -> None:
    """With the behaviour's log-probs equal to the policy's, both surrogates agree exactly in value
    and gradient, and no ratio is clipped."""
    batch = example()
    fresh = replace(batch, behaviour_logprob_BT=batch.logprob_BT)
    on_policy = replace(batch, behaviour_logprob_BT=None)
    for one, other in zip(
        loss_and_gradient(fresh, ObjectiveSettings()),
        loss_and_gradient(on_policy, ObjectiveSettings()),
        strict=True,
    ):
        assert torch.equal(one, other)
    for case in (fresh, on_policy):
        metrics = finish_metrics(eg_grpo_loss(case, ObjectiveSettings(), counts_of(case))[1])
        assert metrics["ratio/clipped"] == 0.0


def test_on_policy_surrogate() -> None:
    """Value A~, gradient A~."""
    logprob_BT = torch.tensor([[-1.0, -5.0]], requires_grad=True)
    surrogate_BT = policy_surrogate_on_policy(logprob_BT, torch.tensor([[2.0, -0.5]]))
    surrogate_BT.sum().backward()
    assert surrogate_BT.tolist() == [[2.0, -0.5]]
    assert logprob_BT.grad is not None
    assert logprob_BT.grad.tolist() == [[2.0, -0.5]]


def test_clip_higher_is_asymmetric() -> None:
    """Ratios 1.25 and 0.75 under clip 0.2 / 0.3: 1.25 is within the upper bound, 0.75 beyond the
    lower one, and clipping only ever removes the gain (gradient 0 there)."""
    ratio_BT = torch.tensor([[1.25, 1.35, 0.75, 1.25, 1.35, 0.75]])
    token_advantage_BT = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]])
    logprob_BT = ratio_BT.log().requires_grad_()
    surrogate_BT = policy_surrogate_clipped(
        logprob_BT, torch.zeros(1, 6), token_advantage_BT, 0.2, 0.3
    )
    surrogate_BT.sum().backward()
    assert logprob_BT.grad is not None
    torch.testing.assert_close(surrogate_BT, torch.tensor([[1.25, 1.3, 0.75, -1.25, -1.35, -0.8]]))
    torch.testing.assert_close(
        logprob_BT.grad, torch.tensor([[1.25, 0.0, 0.75, -1.25, -1.35, 0.0]])
    )


def test_truncated_importance_weight() -> None:
    """min(exp(difference), cap), without gradient; it scales the surrogate and not the KL term."""
    learner_BT = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    weight_BT = truncated_importance_weight(
        learner_BT, torch.tensor([[0.0, math.log(2.0), -math.log(5.0)]]), 2.0
    )
    torch.testing.assert_close(weight_BT, torch.tensor([[1.0, 0.5, 2.0]]))
    assert not weight_BT.requires_grad
    halves_BT = torch.full((5, COT_COLUMNS + IMAGE_COLUMNS), 0.5)
    for beta in (0.0, 0.01):
        objective = ObjectiveSettings(kl_beta=beta, aggregation="sequence-mean")
        batch = example()
        whole, _ = loss_and_gradient(batch, objective)
        half, _ = loss_and_gradient(replace(batch, importance_weight_BT=halves_BT), objective)
        kl, _ = loss_and_gradient(
            replace(batch, importance_weight_BT=torch.zeros_like(halves_BT)), objective
        )
        torch.testing.assert_close(half - kl, (whole - kl) / 2)
        assert abs(whole - kl) > 1e-3


def test_aggregation_weights_literal() -> None:
    """Two trajectories of three and one tokens, and a row of padding that is no sequence."""
    mask_BT = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    counts = BatchCounts(tokens=4, sequences=2)
    expected: dict[Aggregation, tuple[float, float]] = {
        "token-mean": (1 / 4, 1 / 4),
        "sequence-mean": (1 / 6, 1 / 2),
        "constant": (1 / 20, 1 / 20),
    }
    for aggregation, (first, second) in expected.items():
        weight_BT = aggregation_weights(mask_BT, aggregation, counts, 10.0)
        expected_BT = torch.tensor([[first] * 3, [second, 0.0, 0.0], [0.0] * 3])
        torch.testing.assert_close(weight_BT, expected_BT)


def test_bfloat16_log_probs_are_computed_in_float32() -> None:
    """bfloat16 inputs give the loss of the same numbers in float32, and bfloat16 gradients."""
    batch = example()
    rounded = replace(batch, logprob_BT=batch.logprob_BT.bfloat16())
    loss, gradient_BT = loss_and_gradient(rounded, ObjectiveSettings())
    widened = replace(rounded, logprob_BT=rounded.logprob_BT.float())
    expected_loss, expected_BT = loss_and_gradient(widened, ObjectiveSettings())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected_loss)
    assert torch.equal(gradient_BT, expected_BT.bfloat16())


@PROPERTY
@given(
    difference=st.one_of(st.floats(-20.0, 20.0), st.floats(-1e-4, 1e-4)),
    logprob=st.sampled_from([0.0, -1.0, -12.0]),
)
def test_k3_is_never_negative(difference: float, logprob: float) -> None:
    """k3 = exp(d) - d - 1 >= 0 with gradient 1 - exp(d), to float32 accuracy at small d too."""
    logprob_1 = torch.tensor([logprob], requires_grad=True)
    reference_1 = torch.tensor([logprob + difference])
    d = float(reference_1.item() - logprob)
    value = k3(logprob_1, reference_1)
    value.sum().backward()
    assert logprob_1.grad is not None
    assert value.item() >= -1e-10 * abs(d)
    assert value.item() == pytest.approx(math.expm1(d) - d, rel=1e-5, abs=1e-6 * abs(d))
    assert logprob_1.grad.item() == pytest.approx(-math.expm1(d), rel=1e-5, abs=1e-7)


def test_kl_estimators_in_expectation() -> None:
    """By enumeration: k3 averages to KL(policy || reference); as loss terms k2 has the gradient of
    KL(policy || reference), k3 that of KL(reference || policy)."""
    logits_V = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.0, 0.5, -0.5, 1.0], dtype=torch.float64).log_softmax(0)
    logprob_V = logits_V.log_softmax(0)
    reverse = (logprob_V.exp() * (logprob_V - reference_V)).sum()
    forward = (reference_V.exp() * (reference_V - logprob_V)).sum()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits_V, retain_graph=True)[0]

    probability_V = logprob_V.detach().exp()
    mean = {n: (probability_V * f(logprob_V, reference_V)).sum() for n, f in KL_ESTIMATORS.items()}
    torch.testing.assert_close(mean["k3"], reverse)
    torch.testing.assert_close(gradient(mean["k2"]), gradient(reverse))
    torch.testing.assert_close(gradient(mean["k3"]), gradient(forward))


@pytest.mark.parametrize(("guidance", "is_baseline"), [(1.0, True), (5.0, False)])
def test_bonus_in_expectation(guidance: float, is_baseline: bool) -> None:
    """A bonus that does not depend on the sampled token is a baseline: its expected gradient,
    enumerated over the vocabulary, is 0 for samples of the trained distribution. For samples of the
    guided distribution pi_w it is -b grad KL(pi_w || pi): guidance is distilled."""
    conditional_V = torch.tensor([0.2, 1.0, -0.5, 0.4, 0.0], dtype=torch.float64)
    unconditional_V = torch.tensor([0.5, 0.2, 0.1, -0.3, 0.6], dtype=torch.float64)
    logits_V = conditional_V.clone().requires_grad_()
    logprob_V = logits_V.log_softmax(0)
    guided_V = (unconditional_V + guidance * (conditional_V - unconditional_V)).log_softmax(0)
    bonus = 0.2
    surrogate_V = policy_surrogate_on_policy(logprob_V, torch.full((5,), bonus).double())
    (expected_V,) = torch.autograd.grad(
        (guided_V.exp() * surrogate_V).sum(), logits_V, retain_graph=True
    )
    divergence = (guided_V.exp() * (guided_V - logprob_V)).sum()
    (divergence_V,) = torch.autograd.grad(divergence, logits_V)
    torch.testing.assert_close(expected_V, -bonus * divergence_V)
    assert (expected_V.norm() < 1e-12) == is_baseline
    assert is_baseline or expected_V.norm() > 0.01


def test_metrics_literal() -> None:
    """A = -0.5 over four image tokens, of which lambda = 1 flips one of two high ones (b = 0.4 and
    0.8), and A = 1 over two (one low, one high with b = 0.6)."""
    zeros_BT = torch.zeros(2, 5)
    ratio_BT = torch.tensor([[9.0, 1.0, 0.5, 1.0, 3.0], [9.0, 0.5, 1.0, 9.0, 9.0]])
    batch = LossBatch(
        logprob_BT=zeros_BT,
        reference_logprob_BT=zeros_BT,
        cot_mask_BT=zeros_BT.bool(),
        image_mask_BT=torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool),
        advantage_B=torch.tensor([-0.5, 1.0]),
        has_variance_B=torch.tensor([True, True]),
        entropy_BT=torch.tensor([[9.0, 0.1, 0.2, 0.4, 0.8], [9.0, 0.3, 0.6, 9.0, 9.0]]),
        behaviour_logprob_BT=-ratio_BT.log(),
    )
    metrics = finish_metrics(
        eg_grpo_loss(batch, ObjectiveSettings(bonus="budget"), counts_of(batch), 1.0)[1]
    )
    squares = 0.01 + 0.04 + 0.16 + 0.64 + 0.09 + 0.36
    assert metrics == pytest.approx(
        {
            "kl/mean": 0.0,
            # the negative middle token at 0.5, and the flipped token, positive now, at 3
            "ratio/clipped": 2 / 6,
            "tokens/low_fraction": 2 / 6,
            "tokens/high_fraction": 3 / 6,
            "bonus/mean": (0.4 + 0.8 + 0.6) / 3,
            "bonus/flip_share": 1 / 2,
            "advantage/abs_mean": 0.75,
            "entropy/cot/mean": math.nan,
            "entropy/cot/std": math.nan,
            "entropy/image/mean": 2.4 / 6,
            "entropy/image/std": math.sqrt(squares / 6 - 0.4**2),
        },
        nan_ok=True,
        abs=1e-7,
    )
