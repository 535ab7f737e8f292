"""The synchronous pipeline: the paper's on-policy schedule, staleness 0, one page."""

from __future__ import annotations

import time

from orchestrator.pipeline.batch import sample_batch
from orchestrator.pipeline.run import Run
from orchestrator.pipeline.skipped import record_skipped, stop_if_stuck
from orchestrator.pipeline.step_row import Clock, reward_metrics, scoring_metrics, spreads
from policy.types import JsonDict
from rewards.scored_group import values_by_reward


def train(run: Run) -> None:
    """EG-GRPO: sample groups, score them, spend the update by uncertainty, push the weights.

    Step s trains weight version s into version s + 1. Returns when the steps are done or the user
    asked to stop; either way the last weights are in a checkpoint.
    """
    config, first = run.config, run.start_step
    run.publisher.publish(weight_version=first)
    if first == 0:
        run.evaluate(step=0)

    run.interrupt.stepping = True
    for step in range(first, config.steps):
        clock = Clock()
        batch = sample_batch(run, step, clock)
        with clock.stage("learn"), run.rollout.asleep():
            learned = run.learner.update(batch.training_groups)
        batch.groups.clear()  # the object store has room for one step's or evaluation's images
        with clock.stage("sync"):
            gap = run.publisher.publish(weight_version=step + 1)

        row: JsonDict = {"step": step + 1, "time": time.time(), "weight_version": step + 1}
        row |= reward_metrics(batch.scored, batch.advantages, batch.dropped) | learned
        row |= scoring_metrics(batch.usage) | {"probe/gap": gap}
        row["alarms"] = run.alarms.check(row, spreads(values_by_reward(batch.scored)))
        record_skipped(run, row, batch.scored)
        run.commit(row, clock)
        stop_if_stuck(run, row)
        if run.interrupt.requested:
            run.save(step + 1)
            break
