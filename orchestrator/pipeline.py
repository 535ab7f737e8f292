"""The synchronous pipeline: the paper's on-policy schedule, staleness 0, one page."""

from __future__ import annotations

import time

from evaluation.summary import ScoredGroup, failure_reasons
from learner.advantages import default_minimum_survivors, group_advantages
from learner.batch import TrainingGroup
from orchestrator.metrics import Clock, reward_metrics, spreads, values_by_reward
from orchestrator.pools import GroupRef
from orchestrator.prompts import derived_seed, step_prompts
from orchestrator.run import Run
from orchestrator.waiting import WorkerFailed
from policy.types import JsonDict
from rollout.engine import GenerationRequest


def train(run: Run) -> None:
    """EG-GRPO: sample groups, score them, spend the update by uncertainty, push the weights.

    Step s trains weight version s into version s + 1. Returns when the steps are done or the user
    asked to stop; either way the last weights are in a checkpoint.
    """
    config, first = run.config, run.start_step
    run.publisher.publish(weight_version=first)
    if first == 0:
        run.evaluate(step=0)

    for step in range(first, config.steps):
        clock = Clock()
        with clock.stage("rollout"):
            groups = run.rollout.generate(_requests(run, step))
        with clock.stage("reward"):
            scored = run.rewards.score(groups)
        advantages = [_advantages(run, group) for group in scored]
        with clock.stage("learn"), run.rollout.asleep():
            learned = run.learner.update(_training_batch(groups, scored, advantages))
        with clock.stage("sync"):
            gap = run.publisher.publish(weight_version=step + 1)

        row: JsonDict = {"step": step + 1, "time": time.time(), "weight_version": step + 1}
        row |= reward_metrics(scored, advantages) | learned | {"probe/gap": gap}
        row["alarms"] = run.alarms.check(row, spreads(values_by_reward(scored)))
        run.commit(row, clock)
        if run.interrupt.requested:
            run.save(step + 1)
            break


def _requests(run: Run, step: int) -> list[GenerationRequest]:
    config = run.config
    prompts = step_prompts(run.prompts, config.prompts_per_step, config.seed, step)
    return [
        GenerationRequest(
            prompt,
            tuple(
                derived_seed(config.seed, "train", step, place, index)
                for index in range(config.rollout.group_size)
            ),
        )
        for place, prompt in enumerate(prompts)
    ]


def _advantages(run: Run, group: ScoredGroup) -> list[float | None] | None:
    minimum = run.config.algorithm.minimum_survivors or default_minimum_survivors(
        run.config.rollout.group_size
    )
    return group_advantages(group.totals, minimum)


def _training_batch(
    groups: list[GroupRef],
    scored: list[ScoredGroup],
    advantages: list[list[float | None] | None],
) -> list[TrainingGroup]:
    batch = [
        TrainingGroup(group.ref, tuple(values))
        for group, values in zip(groups, advantages, strict=True)
        if values is not None
    ]
    if not batch:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in failure_reasons(scored).items())
        raise WorkerFailed(f"no group of this step has enough scored trajectories: {reasons}")
    return batch
