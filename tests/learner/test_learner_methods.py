"""The token methods on examples whose numbers were computed apart from this code."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from token_methods import group_record

from learner.algorithm.methods.contrast import Contrast, rank_weights
from learner.algorithm.methods.critical import (
    Critical,
    critical_tokens,
    entropy_slopes,
    mean_cosines,
)
from learner.algorithm.methods.eg_grpo import EgGrpo
from learner.algorithm.methods.similarity import Similarity, opposed_similarity
from learner.algorithm.methods.token_method import GroupRecord, Rows
from learner.algorithm.methods.top_entropy import TopEntropy
from policy.errors import UserError


def rows(
    advantages: list[float], cot: list[list[float]], image: list[list[float]], **others: object
) -> Rows:
    """Rows of full length. The columns hold entropies, those of CoT tokens first."""
    entropy_BT = torch.cat([torch.tensor(cot), torch.tensor(image)], dim=1)
    is_cot_BT = (torch.arange(entropy_BT.shape[1]) < len(cot[0])).expand(entropy_BT.shape)
    return Rows(
        advantage_B=torch.tensor(advantages),
        has_variance_B=torch.ones(len(advantages), dtype=torch.bool),
        cot_mask_BT=is_cot_BT,
        image_mask_BT=~is_cot_BT,
        entropy_BT=entropy_BT,
        **others,  # type: ignore[arg-type]
    )


# EG-GRPO


def test_capped_bonus_through_the_interface() -> None:
    """h = 0.1 to 0.6 and A = 0.8 and -0.8: one low token, three high ones. The KL weight is 1."""
    h = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    terms = EgGrpo().terms(rows([0.8, -0.8], [[], []], [h, h]), None)
    expected = [[0.0, 0.8, 0.8, 0.92, 0.95, 0.98], [0.0, -0.8, -0.8, -0.68, -0.65, -0.62]]
    torch.testing.assert_close(terms.advantage_BT, torch.tensor(expected))
    assert (terms.kl_weight_BT == 1.0).all()


@pytest.mark.parametrize(("bonus", "expected"), [("budget", 8 / 15), ("budget-exact", 32 / 15)])
def test_lambda_through_the_interface(bonus: str, expected: float) -> None:
    """The same two rows as one batch, kappa 1; also when each is a summary of its own."""
    h = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    method = EgGrpo(bonus=bonus)  # type: ignore[arg-type]
    whole = method.settle([method.summary(rows([0.8, -0.8], [[], []], [h, h]))])
    parts = [method.summary(rows([a], [[]], [h])) for a in (0.8, -0.8)]
    assert whole == method.settle(parts) == pytest.approx(expected, rel=1e-6)


# Top-entropy


@pytest.mark.parametrize(("mean_over", "weight"), [("selected", 5.0), ("all", 1.0)])
def test_top_entropy_selects_a_fifth(mean_over: str, weight: float) -> None:
    """Of ten tokens the two largest, at 1 and 3; A~ is 5 A or A there, and 0 elsewhere."""
    batch = rows([1.0], [[]], [[0.1, 0.9, 0.2, 0.8, 0.3, 0.4, 0.7, 0.05, 0.5, 0.6]])
    method = TopEntropy(mean_over=mean_over)  # type: ignore[arg-type]
    terms = method.terms(batch, method.settle([method.summary(batch)]))
    expected = [0.0, weight, 0.0, weight, *[0.0] * 6]
    assert terms.advantage_BT.tolist() == [pytest.approx(expected)]
    assert (terms.kl_weight_BT == 1.0).all()
    assert terms.metrics["tokens/high_fraction"].tolist() == [2.0, 10.0]


def test_each_modality_has_a_threshold_of_its_own() -> None:
    """Entropies in nats: one threshold would select two image tokens, 6 and 8, and no CoT token."""
    batch = rows([1.0], [[1.2, 0.4, 0.9, 0.1, 0.2]], [[6.0, 6.5, 5.5, 6.2, 5.8]])
    method = TopEntropy()
    advantage_T = method.terms(batch, method.settle([method.summary(batch)])).advantage_BT[0]
    assert advantage_T.nonzero().flatten().tolist() == [0, 6]


def test_equal_entropies_are_selected_together() -> None:
    """Of ten tokens three share the second place: four are selected, and the rescale is 10 / 4.
    A modality without tokens settles too."""
    batch = rows([2.0], [[]], [[0.1, 0.8, 0.2, 0.8, 0.3, 0.4, 0.9, 0.05, 0.5, 0.8]])
    method = TopEntropy()
    advantage_T = method.terms(batch, method.settle([method.summary(batch)])).advantage_BT[0]
    assert advantage_T.tolist() == [0.0, 5.0, 0.0, 5.0, 0.0, 0.0, 5.0, 0.0, 0.0, 5.0]


@pytest.mark.parametrize(("total", "count"), [(1, 1), (4, 1), (6, 2), (35, 7), (576, 116)])
def test_the_count_is_rounded_up(total: int, count: int) -> None:
    """A fifth, at least one token; in float64 0.2 * 35 is above 7."""
    batch = rows([1.0], [[]], [[place / total for place in range(total)]])
    method = TopEntropy()
    terms = method.terms(batch, method.settle([method.summary(batch)]))
    assert int((terms.advantage_BT != 0.0).sum()) == count


# Similarity


def record(
    advantages: list[float], vectors: list[list[tuple[float, float]]], **others: object
) -> GroupRecord:
    """A group whose tokens have these vectors, G N 2."""
    vector_GND = np.array(vectors, dtype=np.float32)
    members, count = vector_GND.shape[:2]
    return replace(
        group_record(tuple(advantages)),
        image_ids_GN=np.arange(members * count, dtype=np.int32).reshape(members, count),
        vector_VD=vector_GND.reshape(-1, 2),
        **others,  # type: ignore[arg-type]
    )


# Of four members at three positions: equal, different, and opposed.
FOUR = [
    [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)],
    [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)],
    [(1.0, 0.0), (-1.0, 0.0), (-1.0, 0.0)],
    [(1.0, 0.0), (0.6, 0.8), (0.0, -1.0)],
]


def test_similarity_literal() -> None:
    """Rewards 1, 1, 0, 0: cosines with the two members of the opposite sign, and both weights."""
    advantages = [0.865875, 0.865875, -0.865875, -0.865875]
    group = record(advantages, FOUR)
    similarity = [[1.0, -0.2, -0.5], [1.0, 0.4, -0.5], [1.0, -0.5, -0.5], [1.0, 0.7, -0.5]]
    np.testing.assert_allclose(opposed_similarity(group), similarity, atol=1e-6)
    weights = Similarity().group_weights(group)
    expected_kl = [[1.0, 0.9, 0.75], [1.0, 1.0, 0.75], [1.0, 0.75, 0.75], [1.0, 1.0, 0.75]]
    np.testing.assert_allclose(weights.kl_GN, expected_kl, atol=1e-6)
    surrogate = [[0.0, 1.5, 1.875], [0.0, 0.75, 1.875], [0.0, 1.875, 1.875], [0.0, 0.375, 1.875]]
    np.testing.assert_allclose(weights.surrogate_GN, surrogate, atol=1e-5)


def test_an_advantage_of_0_opposes_all() -> None:
    """A = 1, 0, -1: the middle one's own cosine counts as 0, and its place stays."""
    found = opposed_similarity(record([1.0, 0.0, -1.0], FOUR[:3]))
    expected = [[1.0, -0.5, -0.5], [2 / 3, 0.0, 0.0], [1.0, -0.5, -0.5]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_similarity_agrees_with_a_loop_over_pairs() -> None:
    """S by its definition, member by member."""
    group = group_record((1.5, -0.5, 0.0, -0.5, -0.5))
    assert group.vector_VD is not None
    vector_GND = group.vector_VD[group.image_ids_GN].astype(np.float64)
    found = opposed_similarity(group)
    for i, advantage in enumerate(group.advantage_G):
        opposed = [j for j, other in enumerate(group.advantage_G) if advantage * other <= 0]
        cosines = [
            (vector_GND[i] * vector_GND[j]).sum(-1) if j != i else np.zeros(16) for j in opposed
        ]
        np.testing.assert_allclose(found[i], np.mean(cosines, axis=0), atol=1e-6)


# Contrast


def test_contrast_literal() -> None:
    """Five tokens: the weight follows the rank of eta = exp(d) - d - 1."""
    group = replace(
        group_record((1.0,)),
        conditional_logprob_GN=np.array([[-2, -5, -3, -6, -4]], dtype=np.float32),
        unconditional_logprob_GN=np.array([[-4, -5.1, -3, -5, -9]], dtype=np.float32),
    )
    weights = Contrast().group_weights(group)
    expected = [[1.457517, 0.328247, 0.073924, 0.785078, 2.355234]]
    np.testing.assert_allclose(weights.surrogate_GN, expected, atol=1e-5)
    np.testing.assert_allclose(weights.kl_GN, [[0.5, 1.0, 1.0, 0.714922, 0.5]], atol=1e-5)


def test_the_upper_ranks_hold_four_fifths_of_the_weight() -> None:
    """Of 576 tokens the 230 with the highest ranks; the largest weight is 3.14, the mean KL weight
    0.755."""
    weight_1N = rank_weights(np.arange(576.0)[None])
    assert weight_1N.mean() == pytest.approx(1.0)
    assert weight_1N[0, -230:].sum() / 576 == pytest.approx(0.8, abs=2e-3)
    assert weight_1N.max() == pytest.approx(3.14, abs=5e-3)
    kl_1N = 0.5 + 0.5 * np.clip(2 - 2 * weight_1N, 0, 1)
    assert kl_1N.mean() == pytest.approx(0.755, abs=1e-3)


def test_of_equal_contrasts_the_earlier_weighs_more() -> None:
    weight_1N = rank_weights(np.zeros((1, 6)))
    assert (np.diff(weight_1N[0]) < 0).all()


# Critical


ENTROPY = np.array([[3, 3, 3, 3], [3, 3, 7, 7], [3, 3, 7, 7], [3, 3, 3, 3]], dtype=np.float32)


def turning(members: int) -> list[list[tuple[float, float]]]:
    """All members hold (1, 0) everywhere but the second, which turns by 10 degrees a position."""
    still = [(1.0, 0.0)] * 16
    turned = [(math.cos(math.radians(10 * t)), math.sin(math.radians(10 * t))) for t in range(16)]
    return [turned if member == 1 else still for member in range(members)]


def test_entropy_slopes_literal() -> None:
    """Of a 4 x 4 map with a square of high entropy, smoothed with what was drawn before."""
    found = entropy_slopes(ENTROPY)
    np.testing.assert_allclose(found[1], [0.0, 0.565685, 1.56205, 2.332381], atol=1e-5)
    assert found[3, 3] == pytest.approx(2.039608, abs=1e-5)
    transposed = entropy_slopes(ENTROPY.T)
    np.testing.assert_allclose(transposed[3], [1.7075, 1.852326, 1.612452, 1.56205], atol=1e-5)


def test_mean_cosines_literal() -> None:
    """Over the ordered pairs of three members."""
    cosine_N = mean_cosines(np.array(turning(3), dtype=np.float32))
    assert cosine_N[[0, 9, 15]].tolist() == pytest.approx([1.0, 1 / 3, -0.244017], abs=1e-6)


def test_critical_tokens_literal() -> None:
    """The first token, the steepest of positions 1 to 12, and the least similar one of the others;
    members of a group may differ in the second. The weights are 16 / 3 on the three of them."""
    entropy_GN = np.stack([ENTROPY.ravel(), ENTROPY.T.ravel(), ENTROPY.ravel()])
    group = record([1.0, -0.5, -0.5], turning(3), entropy_GN=entropy_GN)
    selected = [np.flatnonzero(row).tolist() for row in critical_tokens(group)]
    assert selected == [[0, 7, 15], [0, 12, 15], [0, 7, 15]]
    weights = Critical().group_weights(group)
    assert weights.surrogate_GN[0, [0, 1, 7, 15]].tolist() == pytest.approx(
        [16 / 3, 0, 16 / 3, 16 / 3]
    )
    assert np.array_equal(weights.kl_GN, weights.surrogate_GN)


def test_of_equal_positions_the_earlier_are_critical() -> None:
    """A flat map and equal images: the first position, the first inner one, and the next."""
    group = replace(
        group_record((1.0, -1.0)),
        entropy_GN=np.ones((2, 16), dtype=np.float32),
        image_ids_GN=np.zeros((2, 16), dtype=np.int32),
    )
    assert [np.flatnonzero(row).tolist() for row in critical_tokens(group)] == [[0, 1, 2]] * 2


def test_three_tenths_of_576_tokens() -> None:
    """171 tokens in every image, and the last 59 positions are never an edge."""
    rng = np.random.default_rng(0)
    group = replace(
        group_record((1.0, -1.0)),
        entropy_GN=rng.gamma(2.0, size=(2, 576)).astype(np.float32),
        image_ids_GN=np.zeros((2, 576), dtype=np.int32),
        grid=(24, 24),
    )
    selected_GN = critical_tokens(group)
    assert selected_GN.sum(axis=1).tolist() == [171, 171]
    assert selected_GN[:, :57].all()
    assert not selected_GN[:, 517:].any()


def test_an_image_of_few_tokens_is_refused() -> None:
    group = replace(
        group_record((1.0, -1.0)), image_ids_GN=np.zeros((2, 9), dtype=np.int32), grid=(3, 3)
    )
    with pytest.raises(UserError, match=r"^algorithm.method critical needs 10 .* not 9$"):
        Critical().group_weights(group)


def critical_rows(advantage: float, selected: list[float]) -> Rows:
    """One CoT token and four image tokens, with d = lp - ref = 0.1, -0.2, 0.8 and 0."""
    return rows(
        [advantage],
        [[0.5]],
        [[0.5] * 4],
        logprob_BT=torch.tensor([[-1.0, -0.9, -1.2, -0.2, -1.0]]),
        reference_logprob_BT=torch.full((1, 5), -1.0),
        surrogate_weight_BT=torch.tensor([[1.0, *selected]]),
        kl_weight_BT=torch.tensor([[1.0, *selected]]),
    )


def test_dynamic_weight_literal() -> None:
    """The running mean of exp(clip(d)) over all image tokens; the CoT token keeps A and k = 1."""
    four_thirds = 4 / 3
    batch = critical_rows(-0.5, [four_thirds, 0.0, four_thirds, four_thirds])
    terms = Critical().terms(batch, None)
    expected = [-0.5, -0.736781, 0.0, -0.793916, -0.762104]
    assert terms.advantage_BT[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert terms.kl_weight_BT is batch.kl_weight_BT


def test_the_leak_is_the_gradient_of_an_undetached_weight() -> None:
    """Against autograd of sum A z w exp(lp - sg(lp)) with w attached, and against literal numbers;
    the token outside of the selection moves too."""
    batch = critical_rows(-0.5, [1.0, 0.0, 1.0, 1.0])
    assert batch.logprob_BT is not None
    assert batch.reference_logprob_BT is not None
    found = Critical(leak=True).terms(batch, None).advantage_BT[0, 1:]
    expected = [-1.427512, -0.238796, -0.595437, -0.696578]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    logprob_N = batch.logprob_BT[0, 1:].clone().requires_grad_()
    clipped_N = (logprob_N - batch.reference_logprob_BT[0, 1:]).clamp(-0.5, 0.5)
    weight_N = clipped_N.exp().cumsum(0) / torch.arange(1, 5)
    selected_N = torch.tensor([1.0, 0.0, 1.0, 1.0])
    surrogate = (-0.5 * selected_N * weight_N * (logprob_N - logprob_N.detach()).exp()).sum()
    (gradient_N,) = torch.autograd.grad(surrogate, logprob_N)
    torch.testing.assert_close(found, gradient_N, atol=1e-5, rtol=1e-5)
