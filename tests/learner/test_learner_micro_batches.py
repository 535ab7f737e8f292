"""Cutting a batch over ranks and micro-batches, and laying it out."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.trajectories import TINY_SPECIAL
from learner.micro_batches import cut_micro_batches, micro_batch, training_trajectories
from learner.shares import TrainingGroup, split_over_ranks

ADVANTAGE = st.one_of(st.none(), st.floats(-2, 2))


@given(st.lists(st.lists(ADVANTAGE, max_size=5).map(tuple), max_size=5), st.integers(1, 4))
def test_every_survivor_goes_to_exactly_one_rank(advantages, ranks):
    """Shares cover the survivors once, keep failed ones out and differ in size by one at most."""
    batch = [TrainingGroup(name, values) for name, values in enumerate(advantages)]
    shares = split_over_ranks(batch, ranks)
    members = [[(part.source.group, i) for part in share for i in part.indices] for share in shares]
    assert sorted(itertools.chain(*members)) == [
        (name, i)
        for name, values in enumerate(advantages)
        for i, value in enumerate(values)
        if value is not None
    ]
    assert max(map(len, members)) - min(map(len, members)) <= 1


def test_variance_is_judged_by_the_whole_group(batch):
    """A rank that holds only a group's member of advantage 0 still knows that the group varied."""
    items = training_trajectories(split_over_ranks(batch, 7)[5])
    assert [(item.advantage, item.group_has_variance) for item in items] == [(0.0, True)]


def test_recorded_numbers_land_under_their_tokens(batch):
    """What rollout recorded lies where the learner's own log-probs will."""
    items = training_trajectories(split_over_ranks(batch, 1)[0])
    (rows,) = cut_micro_batches(items, 8)
    tensors = micro_batch(rows, TINY_SPECIAL, 0, guided=False, device=torch.device("cpu"))
    assert not (tensors.recorded_logprob_BT[~tensors.mask_BT] != 0).any()
    for row, item in enumerate(rows):
        trajectory = item.trajectory
        cot = tensors.recorded_logprob_BT[row][tensors.cot_mask_BT[row]]
        image = tensors.recorded_entropy_BT[row][tensors.image_mask_BT[row]]
        assert cot.tolist() == trajectory.cot_logprobs.tolist()
        assert image.tolist() == trajectory.image_entropies_conditional.tolist()


def test_micro_batches_keep_the_members_of_a_group_together(batch):
    """Seven trajectories in micro-batches of three: the order of the batch, and a rest of one."""
    items = training_trajectories(split_over_ranks(batch, 1)[0])
    parts = cut_micro_batches(items, 3)
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [item for part in parts for item in part] == items
