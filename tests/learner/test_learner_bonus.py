"""The three bonus rules: capped, budget (eq. 8) and budget-exact (eq. 15)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithm.bonus import (
    BudgetTerms,
    budget_bonus,
    budget_exact_lambda,
    budget_lambda,
    budget_terms,
    capped_bonus,
    saved_budget,
)
from learner.algorithm.choices import Aggregation
from learner.algorithm.methods.eg_grpo import token_advantages
from learner.algorithm.partition import partition_by_modality

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True)
AGGREGATIONS: list[Aggregation] = ["token-mean", "sequence-mean", "constant"]
Solver = Callable[[BudgetTerms, float, Aggregation], float]
ENTROPY = st.floats(0.01, 1.0)


def terms_of(
    abs_advantages: list[float], tokens: list[int], low: list[int], high: list[list[float]]
) -> BudgetTerms:
    return BudgetTerms(
        abs_advantage_B=np.array(abs_advantages, dtype=np.float64),
        num_tokens_B=np.array(tokens, dtype=np.int64),
        num_low_B=np.array(low, dtype=np.int64),
        num_high_B=np.array([len(entropies) for entropies in high], dtype=np.int64),
        high_entropies_M=np.array([h for entropies in high for h in entropies], dtype=np.float64),
    )


@st.composite
def some_terms(draw: st.DrawFn) -> BudgetTerms:
    """A batch of up to six trajectories, each with low, middle and high tokens or without."""
    count = draw(st.integers(1, 6))
    high = [draw(st.lists(ENTROPY, max_size=5)) for _ in range(count)]
    low = [draw(st.integers(0, 5)) for _ in range(count)]
    middle = [draw(st.integers(1, 5)) for _ in range(count)]
    tokens = [len(h) + a + b for h, a, b in zip(high, low, middle, strict=True)]
    advantages = st.one_of(st.just(0.0), st.floats(0.01, 3.0))
    return terms_of([draw(advantages) for _ in range(count)], tokens, low, high)


def spent(terms: BudgetTerms, lambda_b: float, aggregation: Aggregation) -> float:
    """Left side of eq. 15 as it is written, one trajectory at a time."""
    total, start = 0.0, 0
    for advantage, tokens, count in zip(
        terms.abs_advantage_B, terms.num_tokens_B, terms.num_high_B, strict=True
    ):
        entropies = terms.high_entropies_M[start : start + count]
        start += count
        if count:
            weight = 1.0 if aggregation == "sequence-mean" else float(tokens)
            excess = np.maximum(lambda_b * entropies - advantage, 0.0)
            total += weight * (count / tokens) * float(excess.mean())
    return total


@PROPERTY
@given(advantage=st.floats(-5.0, 5.0, width=32), entropy=st.floats(0.0, 1.0, width=32))
def test_capped_strengthens_positive_and_weakens_negative(advantage: float, entropy: float) -> None:
    """0 <= b <= 0.3 |A|: the advantage of a high token never shrinks when positive, never grows in
    size when negative, and never changes its sign."""
    advantage_B, entropy_BT = torch.tensor([advantage]), torch.tensor([[entropy]])
    bonus_BT = capped_bonus(advantage_B, entropy_BT)
    none_BT, all_BT = torch.tensor([[False]]), torch.tensor([[True]])
    raised = token_advantages(advantage_B, none_BT, all_BT, bonus_BT).item()
    bonus = bonus_BT.item()
    assert 0.0 <= bonus <= 0.3 * abs(advantage) * (1 + 1e-6)
    assert bonus <= 0.3 * entropy * (1 + 1e-6)
    assert raised >= advantage
    assert np.sign(raised) == np.sign(advantage)


def test_capped_literal() -> None:
    """min(0.3 |A|, 0.3 h), for either sign."""
    bonus_BT = capped_bonus(torch.tensor([2.0, -0.5]), torch.tensor([[0.4, 0.9], [0.4, 0.9]]))
    torch.testing.assert_close(bonus_BT, torch.tensor([[0.12, 0.27], [0.12, 0.15]]))


def test_budget_literal() -> None:
    """Two trajectories by hand. Saved: 0.2 * 1 + 0.25 * 0.5 = 0.325 per sequence; entropy mass
    0.5 * 0.6 + 0.25 * 0.4 = 0.4. By tokens: 10 * 0.2 + 4 * 0.125 = 2.5 over 10 * 0.3 + 4 * 0.1."""
    terms = terms_of([1.0, 0.5], [10, 4], [2, 1], [[0.5, 0.6, 0.7, 0.5, 0.7], [0.4]])
    assert budget_lambda(terms, 1.0, "sequence-mean") == pytest.approx(0.325 / 0.4)
    assert budget_lambda(terms, 1.0, "token-mean") == pytest.approx(2.5 / 3.4)
    assert budget_lambda(terms, 1.0, "constant") == budget_lambda(terms, 1.0, "token-mean")


def test_budget_exact_literal() -> None:
    """One trajectory, |A| = 1, two of ten tokens low, one high with h = 0.5: the saved 0.2 is spent
    by (0.5 lambda - 1) / 10, at lambda = 6."""
    terms = terms_of([1.0], [10], [2], [[0.5]])
    assert budget_exact_lambda(terms, 1.0, "sequence-mean") == pytest.approx(6.0)


@PROPERTY
@given(terms=some_terms(), kappa=st.floats(0.8, 1.5), aggregation=st.sampled_from(AGGREGATIONS))
def test_budget_exact_solves_its_equation(
    terms: BudgetTerms, kappa: float, aggregation: Aggregation
) -> None:
    """Eq. 15 holds to 1e-6, and no smaller lambda solves it; otherwise lambda is 0 for a reason."""
    lambda_b = budget_exact_lambda(terms, kappa, aggregation)
    saved = saved_budget(terms, kappa, aggregation)
    if lambda_b == 0.0:
        assert saved <= 0.0 or len(terms.high_entropies_M) == 0
    else:
        assume(saved > 1e-9)
        assert spent(terms, lambda_b, aggregation) == pytest.approx(saved, rel=1e-6)
        assert spent(terms, lambda_b * (1 - 1e-4), aggregation) < saved


@PROPERTY
@given(terms=some_terms(), kappa=st.floats(0.8, 1.5), aggregation=st.sampled_from(AGGREGATIONS))
def test_budget_bounds_what_is_spent(
    terms: BudgetTerms, kappa: float, aggregation: Aggregation
) -> None:
    """Upper-bound sense of eq. 8: (lambda h - |A|)_+ <= lambda h, so that the closed form never
    spends more than was saved, and never exceeds the exact lambda."""
    closed = budget_lambda(terms, kappa, aggregation)
    saved = max(saved_budget(terms, kappa, aggregation), 0.0)
    assert 0.0 <= closed <= budget_exact_lambda(terms, kappa, aggregation) * (1 + 1e-9)
    assert spent(terms, closed, aggregation) <= saved * (1 + 1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("solve", [budget_lambda, budget_exact_lambda])
@pytest.mark.parametrize(
    ("terms", "kappa"),
    [
        (terms_of([0.0, 0.0], [5, 5], [1, 1], [[0.5], [0.6]]), 1.0),
        (terms_of([1.0], [10], [2], [[0.5]]), 0.8),
        (terms_of([1.0], [10], [2], [[0.5]]), 0.5),
        (terms_of([1.0], [10], [2], [[]]), 1.0),
        (terms_of([], [], [], []), 1.0),
    ],
    ids=["all A = 0", "kappa = 1 - rho_low", "kappa below", "no high token", "no trajectory"],
)
def test_edges_have_lambda_zero(
    terms: BudgetTerms, kappa: float, aggregation: Aggregation, solve: Solver
) -> None:
    """Corollary 5.1 and its neighbours: nothing saved, or nothing to spend it on. In floats
    0.8 - 1 + 0.2 is 5e-17, for which the exact lambda would be the first kink, 2."""
    assert solve(terms, kappa, aggregation) == 0.0


@PROPERTY
@given(terms=st.lists(some_terms(), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_lambda_does_not_depend_on_the_cut(terms: list[BudgetTerms], seed: int) -> None:
    """Ranks may hold the trajectories in any order."""
    order = np.random.default_rng(seed).permutation(len(terms))
    whole = BudgetTerms.concatenate(terms)
    permuted = BudgetTerms.concatenate([terms[index] for index in order])
    for solve in (budget_lambda, budget_exact_lambda):
        assert solve(whole, 1.0, "token-mean") == pytest.approx(solve(permuted, 1.0, "token-mean"))


def example_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Entropies, CoT mask, image mask: CoTs of 8, 0, 1 and 5 tokens, images of 12."""
    generator = torch.Generator().manual_seed(3)
    cot_mask_BT = torch.zeros(4, 20, dtype=torch.bool)
    for index, length in enumerate([8, 0, 1, 5]):
        cot_mask_BT[index, :length] = True
    image_mask_BT = torch.zeros(4, 20, dtype=torch.bool)
    image_mask_BT[:, 8:] = True
    return torch.rand(4, 20, generator=generator), cot_mask_BT, image_mask_BT


def test_terms_from_tensors() -> None:
    """Built from tensors, whole or cut, the terms count every token of a trajectory whatever the
    modalities, and leave out groups without variance and rows without tokens."""
    entropy_BT, cot_mask_BT, image_mask_BT = example_batch()
    cot_mask_BT[3] = image_mask_BT[3] = False
    mask_BT = cot_mask_BT | image_mask_BT
    low_BT, high_BT = partition_by_modality(entropy_BT, cot_mask_BT, image_mask_BT, "image")
    advantage_B = torch.tensor([1.0, -2.0, 0.0, 9.0])
    has_variance_B = torch.tensor([True, True, False, True])
    columns = (advantage_B, has_variance_B, entropy_BT, mask_BT, low_BT, high_BT)
    whole = budget_terms(*columns)
    assert whole.abs_advantage_B.tolist() == [1.0, 2.0]
    assert whole.num_tokens_B.tolist() == [20, 12]
    assert whole.num_low_B.tolist() == low_BT[:2].sum(1).tolist()
    assert whole.num_high_B.tolist() == [6, 6]
    np.testing.assert_allclose(whole.high_entropies_M, entropy_BT[:2][high_BT[:2]].numpy())
    halves = [
        budget_terms(*(column[part] for column in columns)) for part in (slice(0, 1), slice(1, 4))
    ]
    joined = BudgetTerms.concatenate(halves)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(value, getattr(joined, name))


def test_group_without_variance_gets_no_bonus() -> None:
    """Its stationary point stays though others raise lambda; a trajectory whose reward is merely
    the mean of a varying group does get one."""
    entropy_BT = torch.full((2, 3), 0.5)
    bonus_BT = budget_bonus(0.8, entropy_BT, torch.tensor([True, False]))
    torch.testing.assert_close(bonus_BT, torch.tensor([[0.4] * 3, [0.0] * 3]))


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_exact_budget_is_neutral_over_signs(aggregation: Aggregation) -> None:
    """Eq. 14: averaged over the sign of A, the coefficient mass of EG-GRPO under budget-exact is
    that of GRPO (kappa = 1), in the weights of the loss."""
    entropy_BT, cot_mask_BT, image_mask_BT = example_batch()
    mask_BT = cot_mask_BT | image_mask_BT
    low_BT, high_BT = partition_by_modality(entropy_BT, cot_mask_BT, image_mask_BT, "both")
    size_B = torch.tensor([0.5, 1.5, 1.0, 0.2])
    yes_B = torch.ones(4, dtype=torch.bool)
    terms = budget_terms(size_B, yes_B, entropy_BT, mask_BT, low_BT, high_BT)
    lambda_b = budget_exact_lambda(terms, 1.0, aggregation)
    bonus_BT = budget_bonus(lambda_b, entropy_BT, yes_B)
    length_B1 = mask_BT.sum(1, keepdim=True)
    weight_BT = mask_BT / length_B1 if aggregation == "sequence-mean" else mask_BT.float()
    mass = sum(
        (weight_BT * token_advantages(sign * size_B, low_BT, high_BT, bonus_BT).abs()).sum() / 2
        for sign in (1.0, -1.0)
    )
    torch.testing.assert_close(mass, (weight_BT * size_B[:, None]).sum())
