"""One learner rank, in this process: the update, what it leaves alone, what it publishes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.published import published_weights
from benchmarks.trajectories import AS_PAPER, TINY_SPECIAL, random_groups
from learner.micro_batches import training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from policy.checkpoint.loading import load_policy
from policy.distribution import logprob_entropy
from policy.probe import probe_logprobs
from policy.sampling import Sampling
from policy.types import Group
from policy.weights import load_into, unpack

VARIANTS = {
    "as-code": dict(),
    "as-paper": AS_PAPER,
    "budget-exact": dict(bonus="budget-exact"),
    "low mask alone": dict(bonus="none"),
    "constant": dict(aggregation="constant", aggregation_constant=20.0),
    "GRPO": dict(modalities="none"),
    "guided": dict(trained_distribution="guided"),
}


def whole(batch):
    return split_over_ranks(batch, 1)[0]


def weights(rank):
    return dict(unpack(published_weights(rank)[1]))


def initial(checkpoint):
    return {n: p.detach().clone() for n, p in load_policy(checkpoint).trained_parameters()}


def distance(some, others, start):
    """L2 distance of two results, relative to the way they went from the start.

    Per element AdamW's first step is the sign of the gradient, which rounding turns where the
    gradient is 0 but for rounding.
    """
    apart = sum((some[name] - others[name]).square().sum() for name in start)
    gone = sum((some[name] - start[name]).square().sum() for name in start)
    assert gone > 0
    return float((apart / gone).sqrt())


def at_version(batch, version):
    """The same batch, as if sampled by the weights of another version."""
    return [
        TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for item in batch
    ]


def grpo_gradient_by_hand(checkpoint, batch):
    """d/dw of -mean over tokens of A_i log p(token), token by token, without the learner's code."""
    policy = load_policy(checkpoint)
    total, tokens = 0.0, 0
    for item in training_trajectories(whole(batch)):
        t = item.trajectory
        for prompt, ids, is_image in (
            (t.cot_prompt_ids, t.cot_ids, False),
            (t.image_prompt_ids, t.image_ids, True),
        ):
            if len(ids) == 0:
                continue
            read = torch.tensor([*prompt, *ids[:-1]])[None]
            kind = torch.tensor([False] * len(prompt) + [is_image] * (len(ids) - 1))[None]
            hidden = policy.hidden_states(policy.embed(read, kind))[0, -len(ids) :]
            logits = policy.image_logits(hidden) if is_image else policy.text_logits(hidden)
            total = total - item.advantage * logprob_entropy(logits, torch.tensor(ids))[0].sum()
            tokens += len(ids)
    (total / tokens).backward()
    return policy


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_plain_grpo_is_the_hand_written_gradient(make_rank, checkpoint, batch, zero_stage):
    """modalities none and beta 0: the step is AdamW on the hand-written gradient, clipped at 1; the
    gradient norm reported is torch's, at every stage. Seven trajectories are cut into micro-batches
    of 3, 3 and 1."""
    algorithm = dict(modalities="none", kl_beta=0.0)
    rank = make_rank(algorithm, zero_stage=zero_stage, micro_batch_size=3)
    row = rank.update(whole(batch))
    by_hand = grpo_gradient_by_hand(checkpoint, batch)
    parameters = [p for _, p in by_hand.trained_parameters()]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    assert norm > 1.0  # clipping takes part
    torch.optim.AdamW(parameters, lr=row["learning_rate"], weight_decay=0.0).step()
    assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    expected = {name: p.detach() for name, p in by_hand.trained_parameters()}
    assert distance(weights(rank), expected, initial(checkpoint)) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batch_size_does_not_matter(make_rank, checkpoint, batch, variant):
    """Rows of unequal lengths, an empty CoT among them, in one micro-batch or in seven."""
    ranks = [
        make_rank(VARIANTS[variant], guidance_scale=3.0, micro_batch_size=size) for size in (8, 1)
    ]
    rows = [rank.update(whole(batch)) for rank in ranks]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5, abs=1e-5, nan_ok=True)
    assert distance(*map(weights, ranks), initial(checkpoint)) < 1e-3


def test_stale_rollouts_do_not_depend_on_micro_batches_either(make_rank, checkpoint, batch):
    """With h of a no-grad pass and the clipped surrogate for stale trajectories only."""
    mixed = [*at_version(batch[:1], 0), *at_version(batch[1:], 1)]
    results = []
    for size in (8, 2):
        rank = make_rank(AS_PAPER, micro_batch_size=size)
        rank.update(whole(batch))
        results.append((rank.update(whole(mixed)), weights(rank)))
    (row, some), (other_row, others) = results
    assert row == pytest.approx(other_row, rel=1e-3, abs=1e-5)
    assert row["ratio/clipped"] > 0
    assert row["staleness/mean"] == pytest.approx(3 / 7)
    assert row["staleness/max"] == 1
    assert distance(some, others, initial(checkpoint)) < 1e-2


def test_same_inputs_give_bitwise_equal_weights(make_rank, batch):
    """Two ranks from one checkpoint, three updates each."""
    results = []
    for _ in range(2):
        rank = make_rank(micro_batch_size=3)
        rows = [rank.update(whole(at_version(batch, version))) for version in range(3)]
        results.append((rows, published_weights(rank)[0]))
    assert results[0] == results[1]


def test_fresh_rollouts_have_ratio_one(make_rank, batch):
    """Staleness 0: what rollout recorded is what the learner computes, up to rounding."""
    row = make_rank(micro_batch_size=3).update(whole(batch))
    assert row["ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    assert row["ratio/clipped"] == row["ratio/outside"] == 0.0
    assert row["staleness/mean"] == row["staleness/max"] == 0.0
    assert row["kl/mean"] == 0.0


def test_fresh_and_stale_surrogates_agree_at_ratio_one(make_rank, checkpoint, batch):
    """The weights of version 1 are those of version 0 when the first update had no gradient."""
    still = [TrainingGroup(item.group, (0.0,) * 4) for item in batch]
    results = []
    for version in (0, 1):
        rank = make_rank(micro_batch_size=8)
        rank.update(whole(still))
        rank.update(whole(at_version(batch, version)))
        results.append(weights(rank))
    assert distance(*results, initial(checkpoint)) < 1e-3


def test_recorded_and_recomputed_entropies_give_one_lambda(make_rank, batch):
    """lambda_B of fresh rollouts is that of a pass under the same weights."""
    still = [TrainingGroup(item.group, (0.0,) * 4) for item in batch]
    lambdas = []
    for version in (1, 0):  # recorded, recomputed
        rank = make_rank(AS_PAPER)
        rank.update(whole(still))
        lambdas.append(rank.update(whole(at_version(batch, version)))["lambda_b"])
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-5)
    assert lambdas[0] > 0


def test_guided_training_follows_the_guided_distribution(make_rank, checkpoint):
    """Recorded guided log-probs are the learner's, so that the ratio is 1 there too."""
    groups = random_groups(load_policy(checkpoint), [[3, 5]], sampling=Sampling(3.0, 1.0, 64))
    guided = [TrainingGroup(groups[0], (1.0, -1.0))]
    rank = make_rank(dict(trained_distribution="guided"), guidance_scale=3.0)
    assert rank.update(whole(guided))["ratio/mean"] == pytest.approx(1.0, abs=1e-5)


def test_importance_cap_scales_what_the_engine_overstated(make_rank, checkpoint, batch):
    """Where rollout recorded log-probs lower by log 4, a cap of 2 doubles the surrogate; ratio/mean
    is 4, cap or not."""

    def update(shift, cap):
        shifted = [
            TrainingGroup(
                Group(
                    item.group.prompt,
                    tuple(
                        replace(
                            t,
                            cot_logprobs=t.cot_logprobs - shift,
                            image_logprobs_conditional=t.image_logprobs_conditional - shift,
                        )
                        for t in item.group.trajectories
                    ),
                ),
                item.advantages,
            )
            for item in batch
        ]
        algorithm = dict(modalities="none", kl_beta=0.0, importance_cap=cap)
        return make_rank(algorithm).update(whole(shifted))

    plain = update(0.0, None)["grad_norm"]
    for cap, factor in ((2.0, 2.0), (100.0, 4.0)):
        row = update(1.3862944, cap)
        assert row["grad_norm"] == pytest.approx(factor * plain, rel=1e-4)
        assert row["ratio/mean"] == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("learner", [dict(), dict(lora={"rank": 4})], ids=str)
def test_without_a_kl_term_no_reference_is_computed(make_rank, batch, learner, monkeypatch):
    """kl_beta 0: the frozen copy is not even made, only the policy is asked, and the row has no
    kl/mean that nobody computed; everything else is that of a tiny beta."""
    rank = make_rank(dict(kl_beta=0.0), **learner)
    assert rank._model.reference is None
    passes = []
    logprobs = rank._model.logprobs
    monkeypatch.setattr(
        rank._model,
        "logprobs",
        lambda *given, **named: passes.append(1) or logprobs(*given, **named),
    )
    row = rank.update(whole(batch))
    assert len(passes) == 1
    expected = make_rank(dict(kl_beta=1e-12), **learner).update(whole(batch))
    assert expected.pop("kl/mean") == pytest.approx(0.0, abs=1e-9)
    assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_frozen_parts_and_reference_never_change(make_rank, checkpoint, batch):
    """Only the language model with its head moves; the KL reference keeps its own copy."""
    rank = make_rank(dict(kl_beta=1.0))
    for version in range(2):
        row = rank.update(whole(at_version(batch, version)))
    assert row["kl/mean"] > 0
    source = dict(load_policy(checkpoint).model.named_parameters())
    live = dict(rank._model._policy.model.named_parameters())
    reference = dict(rank._model.reference.model.named_parameters())
    for name, tensor in source.items():
        assert torch.equal(reference[name], tensor), name
        trained = name.startswith(("model.language_model.", "lm_head."))
        assert trained or torch.equal(live[name], tensor), name
    assert not torch.equal(live["lm_head.weight"], source["lm_head.weight"])


@pytest.mark.parametrize("settings", [dict(), dict(zero_stage=1, dtype="bfloat16")])
def test_published_weights_are_the_live_ones(make_rank, checkpoint, batch, settings):
    """Bit for bit, and a fresh policy that loads them answers the probe as the learner does."""
    rank = make_rank(**settings)
    rank.update(whole(batch))
    receipt, buckets = published_weights(rank)
    live = dict(rank._model._policy.trained_parameters())
    published = dict(unpack(buckets))
    assert published.keys() == live.keys()
    assert all(torch.equal(published[name], live[name]) for name in live)
    fresh = load_policy(checkpoint, rank._model._policy.dtype)
    load_into(fresh.trained_parameters(), buckets)
    expected = probe_logprobs(fresh, TINY_SPECIAL)
    assert np.array_equal(receipt.probe_logprobs, expected)
    assert np.array_equal(rank.probe(), expected)
    assert receipt.weight_version == 1


def test_groups_without_variance_leave_the_weights_alone(make_rank, checkpoint, batch):
    """All advantages 0 at the reference: gradient 0, and AdamW of it changes nothing."""
    rank = make_rank()
    row = rank.update(whole([TrainingGroup(item.group, (0.0,) * 4) for item in batch]))
    assert row["grad_norm"] == 0.0
    assert row["loss"] == 0.0
    start = initial(checkpoint)
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights(rank).items())


def test_bad_batches_are_refused(make_rank, batch):
    """Nothing to train on, or trajectories from the future."""
    rank = make_rank()
    with pytest.raises(ValueError, match="no trajectory"):
        rank.update([])
    with pytest.raises(ValueError, match="weights 3"):
        rank.update(whole(at_version(batch, 3)))
    assert rank.weight_version == 0


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_rank_prints_nothing(make_rank, batch, zero_stage, tmp_path, capfd):
    """Ray would show it to the user. With bfloat16 DeepSpeed prints its memory while it starts, and
    names while it loads."""
    rank = make_rank(dtype="bfloat16", zero_stage=zero_stage, micro_batch_size=3)
    rank.update(whole(batch))
    rank.save(tmp_path / "step-1")
    rank.load(tmp_path / "step-1")
    assert capfd.readouterr().out == ""
