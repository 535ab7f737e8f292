"""The batch of one step: groups sampled and scored, each with enough survivors to learn from.

A group that lost too many trajectories to failed rewards is dropped, and its prompt is sampled
again with fresh seeds, so that the optimizer batch is whole. Seeds depend on step, place and
attempt alone: a run that meets the same faults takes the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from learner.algorithm.advantages import default_minimum_survivors, group_advantages
from learner.batch import TrainingGroup
from orchestrator.pipeline.order import derived_seed, step_prompts
from orchestrator.pipeline.run import Run
from orchestrator.pipeline.step_row import Clock
from orchestrator.workers.reward_pool import Usage
from orchestrator.workers.rollout_pool import GroupRef
from orchestrator.workers.waiting import WorkerFailed
from policy.types import Prompt
from rewards.scored_group import ScoredGroup, failure_reasons
from rewards.totals import training_totals
from rollout.engine import GenerationRequest

log = logging.getLogger("eg_grpo")


@dataclass(frozen=True)
class StepBatch:
    """Everything a step trains on, by place in the batch, and what was dropped on the way."""

    groups: list[GroupRef]
    scored: list[ScoredGroup]
    advantages: list[list[float | None]]
    dropped: list[ScoredGroup]
    usage: dict[str, Usage]  # of the reward pools, for all of it

    @property
    def training_groups(self) -> list[TrainingGroup]:
        """As the learner takes them."""
        return [
            TrainingGroup(group.ref, tuple(values))
            for group, values in zip(self.groups, self.advantages, strict=True)
        ]


def sample_batch(run: Run, step: int, clock: Clock) -> StepBatch:
    """Sample and score the groups of ``step``; raises ``WorkerFailed`` if one cannot be had."""
    config, minimum = run.config, _minimum_survivors(run)
    run.rewards.take_usage()  # that of an evaluation since the last step is not this step's
    prompts = step_prompts(run.prompts, config.prompts_per_step, config.seed, step)
    whole: dict[int, tuple[GroupRef, ScoredGroup]] = {}
    dropped: list[ScoredGroup] = []
    for attempt in range(1 + config.replacements):
        dropped += _attempt(run, step, attempt, prompts, whole, clock)
        if len(whole) == len(prompts):
            return _batch(run, [whole[place] for place in range(len(prompts))], dropped)
    raise WorkerFailed(
        f"step {step + 1}: prompt {dropped[-1].prompt.id} was sampled {1 + config.replacements}"
        f" times, and each time fewer than {minimum} of {config.rollout.group_size} trajectories"
        f" were scored: {_reasons(dropped[-1])}"
    )


def _attempt(
    run: Run,
    step: int,
    attempt: int,
    prompts: Sequence[Prompt],
    whole: dict[int, tuple[GroupRef, ScoredGroup]],
    clock: Clock,
) -> list[ScoredGroup]:
    """Sample the places that ``whole`` lacks and put what can be trained on there.

    Returns the others. Their groups leave the object store before the next attempt.
    """
    places = [place for place in range(len(prompts)) if place not in whole]
    requests = [_request(run, step, place, prompts[place], attempt) for place in places]
    with clock.stage("rollout"):
        groups = run.rollout.generate(requests)
    with clock.stage("reward"):
        scored = run.rewards.score(groups, remember=run.config.cache.training)
    dropped = []
    for place, group, result in zip(places, groups, scored, strict=True):
        if len(_survivors(result)) >= _minimum_survivors(run):
            whole[place] = (group, result)
        else:
            dropped.append(result)
            _record_drop(run, step, attempt, result)
    return dropped


def _batch(
    run: Run, whole: Sequence[tuple[GroupRef, ScoredGroup]], dropped: list[ScoredGroup]
) -> StepBatch:
    scored = [result for _, result in whole]
    advantages = []
    for totals in training_totals(scored, run.config.rewards):
        values = group_advantages(totals.values, _minimum_survivors(run), totals.size)
        assert values is not None  # groups with fewer survivors were dropped
        advantages.append(values)
    groups = [group for group, _ in whole]
    return StepBatch(groups, scored, advantages, dropped, run.rewards.take_usage())


def _request(run: Run, step: int, place: int, prompt: Prompt, attempt: int) -> GenerationRequest:
    again = ("attempt", attempt) if attempt else ()
    return GenerationRequest(
        prompt,
        tuple(
            derived_seed(run.config.seed, "train", step, place, index, *again)
            for index in range(run.config.rollout.group_size)
        ),
    )


def _minimum_survivors(run: Run) -> int:
    return run.config.algorithm.minimum_survivors or default_minimum_survivors(
        run.config.rollout.group_size
    )


def _survivors(group: ScoredGroup) -> list[float]:
    return [total for total in group.totals if total is not None]


def _record_drop(run: Run, step: int, attempt: int, group: ScoredGroup) -> None:
    survivors = len(_survivors(group))
    log.warning(
        "step %d: group of prompt %s dropped, %d of %d trajectories scored: %s",
        step + 1, group.prompt.id, survivors, len(group.totals), _reasons(group),
    )  # fmt: skip
    run.folder.append(
        "dropped.jsonl",
        {
            "step": step + 1,
            "attempt": attempt + 1,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
            "survivors": survivors,
            "group_size": len(group.totals),
            "reasons": failure_reasons([group]),
        },
    )


def _reasons(group: ScoredGroup) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in failure_reasons([group]).items())
