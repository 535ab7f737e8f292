"""What a step reports is in the table of metrics, under every configuration of the learner."""

from __future__ import annotations

import pytest

from benchmarks.trajectories import AS_PAPER
from learner.shares import split_over_ranks
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.step_row import reward_metrics, scoring_metrics
from orchestrator.record.metrics import STEP_METRICS, find
from orchestrator.workers.reward_pool import Usage
from policy.types import Prompt, Score
from rewards.scored_group import ScoredGroup
from tests.training_records import check_keys

ALGORITHMS = {
    "as-code": dict(),
    "as-paper": AS_PAPER,
    "budget-exact": dict(bonus="budget-exact"),
    "no bonus": dict(bonus="none"),
    "GRPO": dict(modalities="none"),
    "no KL": dict(kl_beta=0.0),
    "guided": dict(trained_distribution="guided"),
    "bounded ratios": dict(importance_cap=2.0, dual_clip=3.0),
    "decoupled": dict(behaviour_logprob="learner", importance_cap=2.0),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_reports_listed_metrics(make_rank, batch, algorithm):
    """Of fresh trajectories, then of stale ones, which take the clipped surrogate."""
    rank = make_rank(ALGORITHMS[algorithm], guidance_scale=3.0)
    for _ in range(2):
        check_keys(rank.update(split_over_ranks(batch, 1)[0]))


def test_an_update_with_lora_reports_listed_metrics(make_rank, batch):
    """The adapter adds no metric of its own that the table lacks."""
    check_keys(make_rank(lora={"rank": 4}).update(split_over_ranks(batch, 1)[0]))


def test_every_listed_metric_is_reported(make_rank, batch):
    """The table has no line for a metric that no run writes: a step with a budget rule, an
    importance cap, entropy control, a reward with a detail and an evaluation has all of them."""
    clock = Clock()
    for stage in ("rollout", "reward", "learn", "sync", "evaluate"):
        with clock.stage(stage):
            pass
    results = (Score(1.0, {"sharp": 0.5}), Score(0.0, {"sharp": 0.25}))
    scored = [ScoredGroup(Prompt("a", "a", "color"), (1.0, 0.0), {"hps": results})]
    control = dict(cot_target=2.0, image_target=3.0)
    algorithm = dict(bonus="budget", importance_cap=2.0, entropy_control=control)
    row = make_rank(algorithm).update(split_over_ranks(batch, 1)[0])
    row |= reward_metrics(scored, [[1.0, -1.0]]) | scoring_metrics({"hps": Usage()}) | clock.row()
    # What orchestrator.pipeline adds by name.
    row |= dict.fromkeys(("step", "time", "weight_version", "probe/gap", "alarms"))
    row |= {"evaluation/held_out": 0.5, "workers/rollout": 2}
    check_keys(row)
    assert {find(key).key for key in row} == {metric.key for metric in STEP_METRICS}
