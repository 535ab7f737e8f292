"""Sequences as a tree: what they begin with together is computed once, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.small_models.random_janus import tiny_encoder, tiny_policy
from benchmarks.trajectories import random_groups
from policy.janus import JanusPolicy
from policy.sequences import collate
from policy.token_tree import TokenSequence, token_tree
from policy.trajectory_logprobs import trajectory_logprobs
from policy.tree_states import tree_states

SPECIAL = tiny_encoder().special


def sequence(text: list[int], image: list[int] | None = None) -> TokenSequence:
    return TokenSequence(np.array(text, np.int32), np.array(image or [], np.int32))


def test_the_tree_of_literal_sequences() -> None:
    """Two CoT rows share 1 2; an image row shares 1 with them. The image token 5 is not the text 5.

    Rows are padded to 3 and to 4 places. A place is shared where its node has a home before it.
    """
    tree = token_tree([[sequence([1, 2, 5]), sequence([1, 2])], [sequence([1, 7], [5, 2])]])
    assert tree.ids_P.tolist() == [1, 2, 5, 7, 5, 2]
    assert tree.position_P.tolist() == [0, 1, 2, 1, 2, 3]
    assert tree.text_N.tolist() == [0, 1, 2, 3]
    assert tree.image_N.tolist() == [4, 5]
    cot, image = tree.phases
    assert cot.node_BL[0].tolist() == [0, 1, 2]
    assert cot.node_BL[1, :2].tolist() == [0, 1]
    assert cot.home_N.tolist() == [0, 1, 2]
    assert (cot.shared_place_E.tolist(), cot.shared_node_E.tolist()) == ([3, 4], [0, 1])
    assert image.node_BL.tolist() == [[0, 3, 4, 5]]
    assert image.home_N.tolist() == [1, 2, 3]
    assert (image.shared_place_E.tolist(), image.shared_node_E.tolist()) == ([0], [0])


def one_by_one(policy: JanusPolicy, sequences: list[TokenSequence]) -> list[Tensor]:
    """transformers' own forward pass, each sequence alone."""
    states = []
    for part in sequences:
        ids = torch.tensor([[*part.text, *part.image]])
        is_image = torch.tensor([[False] * len(part.text) + [True] * len(part.image)])
        states.append(policy.hidden_states(policy.embed(ids, is_image))[0])
    return states


@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_are_those_of_the_sequences_alone(checkpointing: bool) -> None:
    """Hidden states to 1e-5, and the gradient of a weighted sum over all places to 1e-5 of its
    largest value: with shared and unshared beginnings, a sequence that is part of another, and
    rows of unequal length."""
    text = [1, 8, 9, 10, 11, 12]
    phases = [
        [sequence(text), sequence(text[:4]), sequence([1, 8, 13])],
        [sequence(text[:2], [3, 4, 5]), sequence(text[:2], [3, 4, 6, 7]), sequence([2, 9], [1])],
    ]
    gradients: list[list[Tensor]] = []
    for as_tree in (True, False):
        policy = tiny_policy()
        if checkpointing and as_tree:
            policy.model.model.language_model.gradient_checkpointing_enable(
                {"use_reentrant": False}
            )
            for layer in policy.model.model.language_model.layers:
                layer.training = True
        if as_tree:
            tree = token_tree(phases)
            hidden_PD = tree_states(policy, tree)
            states = [
                hidden_PD[row_L[: len(part.text) + len(part.image)]]
                for phase, rows in zip(phases, tree.phases, strict=True)
                for part, row_L in zip(phase, rows.node_BL, strict=True)
            ]
            found = states
        else:
            states = one_by_one(policy, [part for phase in phases for part in phase])
            for ours, alone in zip(found, states, strict=True):
                torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)
        torch.manual_seed(0)
        sum((torch.randn_like(state) * state).sum() for state in states).backward()
        gradients.append([p.grad for _, p in policy.trained_parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for ours, alone in zip(*gradients, strict=True):
        assert float((ours - alone).abs().max()) <= 1e-5 * float(alone.abs().max())


def test_a_group_shares_its_prompts() -> None:
    """Four members with prompts of 8 ids: 2 x 3 x 8 nodes fewer than alone. Both prompts begin
    with BOS, and it is there once too. What follows BOS differs between the phases."""
    (group,) = random_groups(tiny_policy(), [[3, 4, 5, 6]], prompt_lengths=(7, 7))
    alone = sum(len(collate([t], SPECIAL).tree.ids_P) for t in group.trajectories)
    together = len(collate(group.trajectories, SPECIAL).tree.ids_P)
    assert alone - together == 3 * (8 + 8 - 1)


@torch.no_grad()
def test_without_a_cot_there_is_the_image_phase_alone() -> None:
    """A run with ``max_cot_tokens: 0`` has no CoT prompt either. Its image tokens keep their
    log-probs to 1e-5."""
    policy = tiny_policy()
    (group,) = random_groups(policy, [[3, 4]])
    none = np.zeros(0, np.int32)
    bare = [
        t.__class__(**{**vars(t), "cot_prompt_ids": none, "cot_ids": none})
        for t in group.trajectories
    ]
    whole, without = (
        trajectory_logprobs(policy, collate(rows, SPECIAL), 1.0, None).logprob_BT
        for rows in (list(group.trajectories), bare)
    )
    torch.testing.assert_close(without, whole[:, 4:], rtol=1e-5, atol=1e-5)


def test_two_threads_give_the_same_bits_every_time() -> None:
    """Gradients of 48 trajectories that share their prompts, five times: restarts rely on it."""
    (group,) = random_groups(tiny_policy(), [[4] * 48], prompt_lengths=(60, 60))
    batch = collate(group.trajectories, SPECIAL)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(5):
            policy = tiny_policy()
            trajectory_logprobs(policy, batch, 1.0, None).logprob_BT.sum().backward()
            parameters = [p for _, p in policy.trained_parameters() if p.grad is not None]
            found.append(torch.cat([p.grad.view(-1) for p in parameters]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradient, found[0]) for gradient in found[1:])
