"""What must be true of every token method, whatever it does with a token."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_settings import learner_settings
from loss_batches import COT_COLUMNS, IMAGE_COLUMNS, counts_of, example
from token_methods import METHODS, OF_GROUPS, group_record
from torch import Tensor

from benchmarks.torch_model import TorchModel
from benchmarks.trajectories import TINY_SPECIAL, random_groups
from learner.algorithm.loss_metrics import add_metrics, finish_metrics
from learner.algorithm.methods.token_method import GroupRecord, Rows, TokenMethod
from learner.algorithm.objective import BatchCounts, LossBatch, ObjectiveSettings, eg_grpo_loss
from learner.micro_batches import training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from learner.update import Updater
from policy.checkpoint.loading import load_policy
from policy.sampling import Sampling
from policy.types import Group

GRPO = ObjectiveSettings(modalities="none")
BUDGETS = ("budget", "budget-exact")


def weighted_example() -> LossBatch:
    """Five trajectories of unequal lengths, with weights of a group stage on image tokens."""
    batch, generator = example(), torch.Generator().manual_seed(1)
    weights = [
        torch.where(batch.image_mask_BT, 2 * torch.rand(5, 14, generator=generator), 1.0)
        for _ in range(2)
    ]
    return replace(batch, surrogate_weight_BT=weights[0], kl_weight_BT=weights[1])


def rows_of(batch: LossBatch, index: slice) -> LossBatch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return LossBatch(**{key: None if v is None else v[index] for key, v in values.items()})


def rows(batch: LossBatch) -> Rows:
    """The batch as a method sees it, with whatever stands at masked positions."""
    shared = {field.name for field in fields(Rows)} & {field.name for field in fields(LossBatch)}
    return Rows(**{name: getattr(batch, name) for name in shared})


def summary(method: TokenMethod[Any, Any], batch: LossBatch) -> Any:
    """What the batch stage of the method has to know of the batch."""
    return method.summary(rows(batch))


def settled(method: TokenMethod[Any, Any], *parts: LossBatch) -> Any:
    if "batch" not in method.needs:
        return None
    return method.settle([summary(method, part) for part in parts])


def loss_and_gradient(
    batch: LossBatch, method: TokenMethod[Any, Any], counts: BatchCounts, whole: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    logprob_BT = batch.logprob_BT.clone().requires_grad_()
    settings = ObjectiveSettings(other_method=method)
    loss, metrics = eg_grpo_loss(replace(batch, logprob_BT=logprob_BT), settings, counts, whole)
    (gradient_BT,) = torch.autograd.grad(loss, logprob_BT)
    return loss.detach(), gradient_BT, metrics


@pytest.mark.parametrize("name", METHODS)
def test_padding_changes_nothing(name: str) -> None:
    """Padding that holds NaN, a row of padding only among it, changes neither the batch stage nor
    loss and gradient, to the bit; the gradient of padding is 0."""
    method, batch = METHODS[name], weighted_example()
    image_mask_BT = batch.image_mask_BT.clone()
    image_mask_BT[1] = False  # with its empty CoT: a row of padding only
    batch = replace(batch, image_mask_BT=image_mask_BT)
    mask_BT = batch.cot_mask_BT | image_mask_BT
    dirty = replace(
        batch,
        **{
            field.name: torch.where(mask_BT, value, torch.nan)
            for field in fields(batch)
            if (value := getattr(batch, field.name)) is not None
            if value.is_floating_point() and value.dim() == 2
        },
    )
    found = [settled(method, part) for part in (batch, dirty)]
    assert found[0] == found[1]
    clean_loss, clean_BT, _ = loss_and_gradient(batch, method, counts_of(batch), found[0])
    dirty_loss, dirty_BT, _ = loss_and_gradient(dirty, method, counts_of(batch), found[0])
    assert torch.equal(clean_loss, dirty_loss)
    assert torch.equal(clean_BT, dirty_BT)
    assert clean_loss.isfinite()
    assert not dirty_BT[~mask_BT].any()


@pytest.mark.parametrize("name", METHODS)
def test_the_cut_changes_nothing(name: str) -> None:
    """The shares of any micro-batches, on any ranks, add up to the whole batch's loss, gradient
    and metrics, and their summaries settle the same."""
    method, batch = METHODS[name], weighted_example()
    counts, whole = counts_of(batch), settled(method, batch)
    loss, gradient_BT, metrics = loss_and_gradient(batch, method, counts, whole)
    for cuts in ([0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 4, 5]):
        pieces = [rows_of(batch, slice(*cut)) for cut in pairwise(cuts)]
        assert settled(method, *pieces) == pytest.approx(whole)
        parts = [loss_and_gradient(piece, method, counts, whole) for piece in pieces]
        torch.testing.assert_close(sum(part[0] for part in parts), loss)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient_BT)
        added = finish_metrics(add_metrics([part[2] for part in parts]))
        assert added == pytest.approx(finish_metrics(metrics), nan_ok=True)


@pytest.mark.parametrize("name", METHODS)
def test_no_advantage_moves_nothing(name: str) -> None:
    """Trajectories of a group whose rewards are all equal have A~ = 0 on every token."""
    method = METHODS[name]
    batch = weighted_example()
    still = replace(batch, advantage_B=torch.zeros(5), has_variance_B=torch.zeros(5).bool())
    known = 0.4 if name in BUDGETS else settled(method, still)
    assert not method.terms(rows(still), known).advantage_BT.any()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "critical, leak"])
def test_weights_of_1_are_grpo(name: str) -> None:
    """Where a method finds no token different from another, loss and gradient are GRPO's to the
    bit: equal entropies, policy and reference alike, and a group stage that weighs all as 1. The
    leak alone is no weight: it adds to the gradient by its definition."""
    method, batch = METHODS[name], example()
    ones_BT = torch.ones(5, COT_COLUMNS + IMAGE_COLUMNS)
    batch = replace(
        batch,
        entropy_BT=0.7 * ones_BT,
        reference_logprob_BT=batch.logprob_BT,
        surrogate_weight_BT=ones_BT,
        kl_weight_BT=ones_BT,
    )
    counts = counts_of(batch)
    loss, gradient_BT, _ = loss_and_gradient(batch, method, counts, settled(method, batch))
    plain_loss, plain_BT, _ = loss_and_gradient(batch, METHODS["grpo"], counts, None)
    assert torch.equal(loss, plain_loss)
    assert torch.equal(gradient_BT, plain_BT)


def test_the_kl_weight_multiplies_the_kl_term_alone() -> None:
    """With k = 0 everywhere the loss is that of beta 0; with k = 2 the KL term counts twice."""
    batch, counts = replace(example(), behaviour_logprob_BT=None), counts_of(example())
    ones_BT = torch.ones(5, COT_COLUMNS + IMAGE_COLUMNS)
    losses = []
    for weight in (0.0, 1.0, 2.0):
        part = replace(batch, surrogate_weight_BT=ones_BT, kl_weight_BT=weight * ones_BT)
        losses.append(loss_and_gradient(part, METHODS["similarity"], counts, None)[0])
    none = eg_grpo_loss(batch, replace(GRPO, kl_beta=0.0), counts)[0]
    torch.testing.assert_close(losses[0], none)
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert losses[1] > losses[0]


# The group stage


def reordered(group: GroupRecord, order: list[int]) -> GroupRecord:
    members = {
        field.name: getattr(group, field.name)[order]
        for field in fields(group)
        if field.name.endswith(("_G", "_GN"))
    }
    return replace(group, **members)


@pytest.mark.parametrize("name", OF_GROUPS)
def test_reordered_members_have_reordered_weights(name: str) -> None:
    group, order = group_record(), [2, 0, 3, 1]
    weights = METHODS[name].group_weights(group)
    found = METHODS[name].group_weights(reordered(group, order))
    np.testing.assert_allclose(found.surrogate_GN, weights.surrogate_GN[order])
    np.testing.assert_allclose(found.kl_GN, weights.kl_GN[order])


@pytest.mark.parametrize("name", OF_GROUPS)
def test_the_group_stage_keeps_the_share_of_image_tokens(name: str) -> None:
    """The mean of the surrogate weights over a group's image tokens is 1."""
    weights = METHODS[name].group_weights(group_record())
    assert weights.surrogate_GN.mean() == pytest.approx(1.0, rel=1e-6)


def test_a_group_of_equal_rewards_has_no_opposites() -> None:
    """Similarity leaves both weights at 1."""
    weights = METHODS["similarity"].group_weights(group_record((0.0, 0.0, 0.0)))
    assert (weights.surrogate_GN == 1.0).all()
    assert (weights.kl_GN == 1.0).all()


# In an update


@pytest.fixture(scope="module")
def guided_groups(checkpoint: Path) -> list[Group]:
    sampling = Sampling(3.0, 1.0, 64)
    return random_groups(load_policy(checkpoint), [[3, 5, 4, 0], [1, 2, 9]], sampling=sampling)


def updater(checkpoint: Path, algorithm: dict[str, Any], micro_batch_size: int = 8) -> Updater:
    settings = learner_settings(
        checkpoint, algorithm, guidance_scale=3.0, micro_batch_size=micro_batch_size
    )
    policy = load_policy(checkpoint)
    return Updater(
        TorchModel(policy, TINY_SPECIAL, settings, policy.device), settings, TINY_SPECIAL
    )


ALGORITHMS = [
    {"method": "top-entropy"},
    {"method": "top-entropy", "top_entropy": {"mean_over": "all"}},
    {"method": "similarity"},
    {"method": "contrast"},
    {"method": "critical"},
    {"method": "critical", "critical": {"leak": True}},
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_micro_batches_of_an_update_change_nothing(
    checkpoint: Path, guided_groups: list[Group], algorithm: dict[str, Any]
) -> None:
    """Through the settings, on a real policy: a metrics row of one micro-batch, or of six."""
    batch = [
        TrainingGroup(guided_groups[0], (1.0, -0.5, None, 0.3)),
        TrainingGroup(guided_groups[1], (0.8, -1.2, 0.0)),
    ]
    share = split_over_ranks(batch, 1)[0]
    one, six = (updater(checkpoint, algorithm, size).update(share, 0) for size in (8, 1))
    assert one == pytest.approx(six, rel=1e-4, abs=1e-5, nan_ok=True)
    assert one["grad_norm"] > 0.0


@pytest.mark.parametrize("method", ["similarity", "contrast", "critical"])
def test_a_group_may_be_cut_and_lose_members(
    checkpoint: Path, guided_groups: list[Group], method: str
) -> None:
    """Each member's weights are the same on any rank, and those of the group without the member
    that failed. The CoT tokens of a micro-batch have weight 1."""
    one = updater(checkpoint, {"method": method})
    cut = TrainingGroup(guided_groups[0], (1.0, -0.5, None, -0.5))
    rest = Group(cut.group.prompt, (*cut.group.trajectories[:2], cut.group.trajectories[3]))
    whole = TrainingGroup(rest, (1.0, -0.5, -0.5))
    expected = training_trajectories(split_over_ranks([whole], 1)[0], one._group_stage)
    for ranks in (1, 2, 3):
        found = [
            item
            for share in split_over_ranks([cut], ranks)
            for item in training_trajectories(share, one._group_stage)
        ]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.surrogate_weights is not None
            assert np.array_equal(ours.surrogate_weights, theirs.surrogate_weights)
            assert np.array_equal(ours.kl_weights, theirs.kl_weights)
    for tensors in one.micro_batches(expected, 0):
        assert tensors.surrogate_weight_BT is not None
        assert (tensors.surrogate_weight_BT[tensors.cot_mask_BT] == 1.0).all()
        assert (tensors.surrogate_weight_BT[tensors.image_mask_BT] != 1.0).any()
