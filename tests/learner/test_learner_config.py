"""Settings and the learning-rate schedule."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from learner.config import AlgorithmConfig, LearnerConfig
from learner.schedule import learning_rate


def test_no_bonus_keeps_the_low_mask():
    objective = AlgorithmConfig(bonus="none").objective()
    assert (objective.bonus, objective.cap_factor, objective.modalities) == ("capped", 0.0, "both")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dict(low_quantile=0.6), "low_quantile"),
        (dict(kl_estimator="k1"), "kl_estimator"),
        (dict(kl_betta=0.1), "kl_betta"),
    ],
)
def test_impossible_algorithms_are_refused(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        AlgorithmConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dict(device="cuda"), "gpus_per_rank"),
        (dict(gpus_per_rank=1), "device cuda"),
        (dict(device="cuda", ranks=2, gpus_per_rank=0.5), "must be above 0.5, not 0.5"),
        (dict(ranks=2, min_ranks=3), r"min_ranks\n.*must not exceed ranks \(2\)"),
        (dict(ranks=2, min_ranks=1, placement="together"), "all ranks are lost with their host"),
        (dict(zero_stage=4), "zero_stage"),
        (dict(offload_optimizer=True), "offload_optimizer needs zero_stage 1"),
        (dict(zero_stage=2, offload_parameters=True), "offload_parameters needs zero_stage 3"),
        (dict(lora={"target_modules": ["lm_head"]}), "q_proj"),
        (dict(lora={"target_modules": []}), "target_modules"),
        (dict(lora={"rank": 0}), "rank"),
        (dict(lora={"dropout": 0.1}), "dropout"),
    ],
)
def test_impossible_learners_are_refused(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        LearnerConfig(**settings)


def test_ranks_may_share_their_gpus_with_other_roles():
    """More than half a GPU each is a GPU of its own; a lone rank has no peer to meet on one."""
    LearnerConfig(device="cuda", ranks=2, gpus_per_rank=0.6)
    LearnerConfig(device="cuda", ranks=1, gpus_per_rank=0.3)


def test_linear_schedule_wastes_no_update():
    """Warm-up starts above 0 and decay would reach 0 right after the last update."""
    config = LearnerConfig(learning_rate=1.0, warmup_steps=2)
    rates = [learning_rate(config, step, total_steps=6) for step in range(7)]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_authors_schedule_is_the_default():
    """No warm-up, linear from the peak."""
    config = LearnerConfig(learning_rate=1.0)
    assert [learning_rate(config, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_constant_schedule_stays_at_the_peak():
    config = LearnerConfig(learning_rate=2.0, warmup_steps=4, schedule="constant")
    rates = [learning_rate(config, step, total_steps=6) for step in range(6)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
