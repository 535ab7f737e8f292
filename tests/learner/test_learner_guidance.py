"""Guided sampling, the distribution that is trained, and the gap between the two."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder
from benchmarks.trajectories import random_groups
from learner.micro_batches import training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from policy.checkpoint.loading import load_policy
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

ADVANTAGES = (1.0, -1.0, 0.5)


def share(groups):
    return split_over_ranks([TrainingGroup(group, ADVANTAGES) for group in groups], 1)[0]


@pytest.fixture(scope="module")
def sampled(checkpoint):
    """Groups as a rollout worker samples them, at guidance 3."""
    config = RolloutConfig(guidance_scale=3.0, max_cot_tokens=6)
    engine = TransformersEngine(load_policy(checkpoint), tiny_encoder(), config)
    return engine.generate([GenerationRequest(prompt, (1, 2, 3)) for prompt in PROMPTS[:2]])


@pytest.mark.parametrize("distribution", ["guided", "conditional"])
def test_either_distribution_is_the_one_that_rollout_recorded(make_rank, sampled, distribution):
    """Both forward passes of the learner against the cached decoding of the engine: ratio 1."""
    rank = make_rank(dict(trained_distribution=distribution), guidance_scale=3.0)
    row = rank.update(share(sampled))
    assert row["ratio/mean"] == pytest.approx(1.0, abs=1e-5)


def test_guided_training_moves_the_guided_log_probs(make_rank, sampled):
    """Advantage 1 on every trajectory makes the sampled image tokens more probable under guidance:
    gradients flow through the conditional and the unconditional pass."""
    rank = make_rank(
        dict(trained_distribution="guided", modalities="none", kl_beta=0.0),
        guidance_scale=3.0,
        learning_rate=1e-3,
    )
    batch = split_over_ranks([TrainingGroup(g, (1.0, 1.0, 1.0)) for g in sampled], 1)[0]
    (micro,) = rank._updater.micro_batches(training_trajectories(batch), 0)
    before_BT, _ = rank._model.logprobs(micro.tokens, with_entropy=False)
    rank.update(batch)
    after_BT, _ = rank._model.logprobs(micro.tokens, with_entropy=False)
    image_BT = micro.image_mask_BT
    assert float((after_BT - before_BT).detach()[image_BT].mean()) > 0


def test_the_gap_is_the_mean_of_guided_minus_conditional(make_rank, sampled):
    """Over all image tokens of the batch, in nats, whichever distribution is trained."""
    image = [t for group in sampled for t in group.trajectories]
    logprob = np.concatenate(
        [t.image_logprobs_guided - t.image_logprobs_conditional for t in image]
    )
    entropy = np.concatenate(
        [t.image_entropies_guided - t.image_entropies_conditional for t in image]
    )
    row = make_rank(micro_batch_size=2).update(share(sampled))
    assert row["guidance/logprob_gap"] == pytest.approx(float(logprob.mean()), rel=1e-5)
    assert row["guidance/entropy_gap"] == pytest.approx(float(entropy.mean()), rel=1e-5)
    # Guidance sharpens: its samples are likelier under it, and its entropy is lower.
    assert row["guidance/logprob_gap"] > 0 > row["guidance/entropy_gap"]


def test_without_guidance_there_is_no_gap(make_rank, checkpoint):
    (group,) = random_groups(load_policy(checkpoint), [[3, 5, 2]])
    row = make_rank().update(share([group]))
    assert row["guidance/logprob_gap"] == row["guidance/entropy_gap"] == 0.0
    assert torch.isfinite(torch.tensor(row["loss"]))
