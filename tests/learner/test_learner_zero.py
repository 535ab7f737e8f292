"""Two real ranks, at every ZeRO stage, train as one does."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from rank_processes import Scenario, run_ranks

from benchmarks.published import published_weights
from benchmarks.trajectories import AS_PAPER
from learner.shares import TrainingGroup, split_over_ranks
from policy.checkpoint.loading import load_policy
from policy.low_rank import Receiver
from policy.types import Group
from policy.weights import pack, unpack


def another_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stale_and_fresh(batch, version):
    """The first group of version 0, the others of ``version``."""
    return [
        item
        if index == 0
        else TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for index, item in enumerate(batch)
    ]


def alone(make_rank, batches, learner, algorithm):
    rank = make_rank(algorithm, **{**learner, "micro_batch_size": 8, "zero_stage": 0})
    rows = [rank.update(split_over_ranks(batch, 1)[0]) for batch in batches]
    receipt, buckets = published_weights(rank)
    rows[-1]["probe"] = float(receipt.probe_logprobs.mean())
    return dict(unpack(buckets)), rows


def served(checkpoint, sent):
    """The trained part of a rollout worker that starts from the checkpoint and loads ``sent``."""
    policy = load_policy(checkpoint)
    Receiver().load(policy.trained_parameters(), pack(sent.items()))
    return {name: parameter.detach() for name, parameter in policy.trained_parameters()}


def compare(together, single, start):
    (some, rows), (others, single_rows) = together, single
    for row, expected in zip(rows, single_rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert some.keys() == others.keys()
    assert all(tensor.numel() > 0 for tensor in some.values())
    apart = sum((some[name] - others[name]).square().sum() for name in start)
    gone = sum((others[name] - start[name]).square().sum() for name in start)
    assert float((apart / gone).sqrt()) < 1e-3


LEARNER = dict(learning_rate=1e-2)


def scenarios(batch):
    """``two``: shares of 3 and 4, so that one rank needs a second micro-batch and the other none.
    ``few``: three survivors in micro-batches of one. ``paper``: a lambda over both ranks.
    ``lora``: ``two`` with an adapter, whose reference passes are the engine's too.
    ``free``: ``few`` with an adapter and no KL term, so no reference passes either."""
    two = [batch, stale_and_fresh(batch, 1)]
    few = [[batch[0]]]
    found = []
    for stage in (0, 1, 2, 3):
        learner = LEARNER | {"zero_stage": stage, "micro_batch_size": 3}
        found.append(Scenario(f"two-{stage}", two, learner))
        found.append(Scenario(f"few-{stage}", few, learner | {"micro_batch_size": 1}))
        found.append(Scenario(f"paper-{stage}", two, learner, AS_PAPER))
        found.append(Scenario(f"lora-{stage}", two, learner | {"lora": {"rank": 4}}))
    # At stage 3 every pass is a collective.
    alone = {"zero_stage": 3, "micro_batch_size": 1, "lora": {"rank": 4}}
    return [*found, Scenario("free-3", few, LEARNER | alone, dict(kl_beta=0.0))]


@pytest.mark.slow
def test_two_ranks_train_as_one_at_every_zero_stage(make_rank, checkpoint, batch, tmp_path):
    """Unequal lengths and shares, fresh and stale rollouts, both presets: rows and weights are
    those of one rank that sees the whole batch at once. At stage 3, with sharded parameters, what
    is published and exported is whole too."""
    start = {n: p.detach().clone() for n, p in load_policy(checkpoint).trained_parameters()}
    wanted = scenarios(batch)
    together = run_ranks(wanted, checkpoint, tmp_path, another_port())
    singles = {}
    for scenario in wanted:
        kind = scenario.name.split("-")[0]
        if kind not in singles:
            sent, rows = alone(make_rank, scenario.batches, scenario.learner, scenario.algorithm)
            singles[kind] = (served(checkpoint, sent), rows)
        sent, rows = together[scenario.name]
        weights = served(checkpoint, sent)
        compare((weights, rows), singles[kind], start)
        exported = load_policy(tmp_path / f"{scenario.name}-checkpoint" / "model")
        assert all(p.equal(weights[n]) for n, p in exported.trained_parameters())
