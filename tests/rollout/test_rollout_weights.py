"""Pushed weights: they arrive bit for bit, are computed with, or change nothing at all."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from policy.janus import JanusPolicy
from policy.probe import probe_logprobs
from policy.weights import WeightBuckets, checksum, pack
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

CONFIG = RolloutConfig(guidance_scale=1.0, max_cot_tokens=8)
REQUEST = GenerationRequest(PROMPTS[0], (1, 2))


def learner_after_a_step(policy: JanusPolicy) -> JanusPolicy:
    learner = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in learner.trained_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return learner


def read_only(weights: WeightBuckets) -> WeightBuckets:
    """As the object store hands them out."""
    for bucket in weights.buckets:
        bucket.flags.writeable = False
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_push_makes_the_engine_the_learner(dtype: torch.dtype) -> None:
    """Every trained tensor is the learner's bit for bit, and so is the probe; before, it was not.

    The receipt's checksum is that of the buffers sent.
    """
    policy, encoder = tiny_policy().to(dtype), tiny_encoder()
    learner = learner_after_a_step(policy)
    engine = TransformersEngine(policy, encoder, CONFIG)
    before = probe_logprobs(policy, encoder.special)
    weights = read_only(pack(learner.trained_parameters()))
    receipt = engine.load_weights(weights, 7)
    for (name, ours), (_, theirs) in zip(
        policy.trained_parameters(), learner.trained_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert receipt.weight_version == engine.identity().weight_version == 7
    assert receipt.checksum == checksum(pack(learner.trained_parameters()))
    expected = probe_logprobs(learner, encoder.special)
    assert np.array_equal(receipt.probe_logprobs, expected)
    assert not np.array_equal(expected, before)


def test_trajectories_after_a_push_are_the_learners() -> None:
    """They carry the new version and equal those of an engine built on the learner's policy."""
    policy, encoder = tiny_policy(), tiny_encoder()
    learner = learner_after_a_step(policy)
    engine = TransformersEngine(policy, encoder, CONFIG)
    (old,) = engine.generate([REQUEST])
    engine.load_weights(pack(learner.trained_parameters()), 1)
    (new,) = engine.generate([REQUEST])
    (expected,) = TransformersEngine(learner, encoder, CONFIG).generate([REQUEST])
    assert [t.weight_version for t in (*old.trajectories, *new.trajectories)] == [0, 0, 1, 1]
    for ours, theirs, before in zip(
        new.trajectories, expected.trajectories, old.trajectories, strict=True
    ):
        assert np.array_equal(ours.image_ids, theirs.image_ids)
        assert np.array_equal(ours.image_logprobs_guided, theirs.image_logprobs_guided)
        assert not np.array_equal(ours.image_ids, before.image_ids)


@pytest.mark.parametrize(
    ("break_slots", "message"),
    [
        (lambda slots: slots[1:], "is missing"),
        (
            lambda slots: (*slots, replace(slots[0], name="lm_head.extra")),
            "lm_head.extra is unknown",
        ),
        (
            lambda slots: (*slots[:-1], replace(slots[-1], shape=slots[-1].shape[::-1])),
            "lm_head.weight has shape",
        ),
        (
            # Two bfloat16 numbers a float32: copied, they would be taken for weights.
            lambda slots: (*slots[:-1], replace(slots[-1], dtype="bfloat16")),
            r"lm_head\.weight is bfloat16, not float32",
        ),
    ],
    ids=["missing", "unknown", "misshapen", "of another type"],
)
def test_wrong_buckets_change_nothing(break_slots, message: str) -> None:
    """A refused push names the tensor and leaves weights, version and probe as they were."""
    policy, encoder = tiny_policy(), tiny_encoder()
    engine = TransformersEngine(policy, encoder, CONFIG)
    before = checksum(pack(policy.trained_parameters()))
    weights = pack(learner_after_a_step(policy).trained_parameters())
    with pytest.raises(ValueError, match=message):
        engine.load_weights(replace(weights, slots=break_slots(weights.slots)), 5)
    assert checksum(pack(policy.trained_parameters())) == before
    assert engine.identity().weight_version == 0
