"""The batch of one step: groups that are sampled, scored and large enough to learn from.

A group may lose trajectories to failed rewards. If too few are left, the group is dropped, and its
prompt is sampled again with fresh seeds, so that the optimizer batch stays whole. The seeds depend
only on the step, the place in the batch and the attempt: a run that meets the same faults takes the
same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learner.algorithm.advantages import default_minimum_survivors, group_advantages
from learner.micro_batches import TrainingGroup
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.order import derived_seed, step_prompts
from orchestrator.pipeline.roles import Rewards, Rollout
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import RunConfig
from policy.errors import RunFailed
from policy.types import Prompt
from rewards.scored_group import ScoredGroup, failure_reasons
from rewards.totals import training_totals
from rollout.engine import GenerationRequest

if TYPE_CHECKING:
    from orchestrator.workers.reward_pool import Usage
    from orchestrator.workers.rollout_pool import GroupRef

log = logging.getLogger("eg_grpo")


@dataclass(frozen=True)
class StepBatch:
    """What a step trains on, in the order of its prompts, and the groups that were dropped."""

    groups: list[GroupRef]
    scored: list[ScoredGroup]
    advantages: list[list[float | None]]
    dropped: list[ScoredGroup]
    # What each reward's pool did for this step.
    usage: dict[str, Usage]

    @property
    def training_groups(self) -> list[TrainingGroup]:
        """The groups and their advantages, in the form that the learner takes."""
        return [
            TrainingGroup(group.ref, tuple(values))
            for group, values in zip(self.groups, self.advantages, strict=True)
        ]


class BatchSampler:
    """Samples the batches of a run, one step at a time."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        rollout: Rollout,
        rewards: Rewards,
        folder: RunFolder,
    ) -> None:
        """``folder`` gets a row in ``dropped.jsonl`` for every group that is dropped."""
        self._config = config
        self._prompts = prompts
        self._rollout = rollout
        self.rewards = rewards
        self._folder = folder
        size = config.rollout.group_size
        self._minimum = config.algorithm.minimum_survivors or default_minimum_survivors(size)

    def sample(self, step: int, clock: Clock) -> StepBatch:
        """Sample and score the groups of ``step``, counted from 0.

        Raises ``RunFailed`` when a prompt loses its group in every attempt.
        """
        config = self._config
        # Drop the usage of an evaluation since the last step. This step must not count it.
        self.rewards.take_usage()
        prompts = step_prompts(self._prompts, config.prompts_per_step, config.seed, step)
        whole: dict[int, tuple[GroupRef, ScoredGroup]] = {}
        dropped: list[ScoredGroup] = []
        for attempt in range(1 + config.replacements):
            dropped += self._attempt(step, attempt, prompts, whole, clock)
            if len(whole) == len(prompts):
                return self._batch([whole[place] for place in range(len(prompts))], dropped)
        raise RunFailed(
            f"step {step + 1}: prompt {dropped[-1].prompt.id} was sampled"
            f" {1 + config.replacements} times, and each time fewer than {self._minimum} of"
            f" {config.rollout.group_size} trajectories were scored: {_reasons(dropped[-1])}"
        )

    def _attempt(
        self,
        step: int,
        attempt: int,
        prompts: Sequence[Prompt],
        whole: dict[int, tuple[GroupRef, ScoredGroup]],
        clock: Clock,
    ) -> list[ScoredGroup]:
        """Sample the places that ``whole`` lacks, and put the groups that can be trained on there.

        Returns the groups that cannot. Their trajectories leave the object store before the next
        attempt.
        """
        places = [place for place in range(len(prompts)) if place not in whole]
        requests = [self._request(step, place, prompts[place], attempt) for place in places]
        with clock.stage("rollout"):
            groups = self._rollout.generate(requests)
        with clock.stage("reward"):
            scored = self.rewards.score(groups, remember=self._config.cache.training)
        dropped = []
        for place, group, result in zip(places, groups, scored, strict=True):
            if _survivors(result) >= self._minimum:
                whole[place] = (group, result)
            else:
                dropped.append(result)
                self._record_drop(step, attempt, result)
        return dropped

    def _batch(
        self, whole: Sequence[tuple[GroupRef, ScoredGroup]], dropped: list[ScoredGroup]
    ) -> StepBatch:
        groups, scored = [group for group, _ in whole], [result for _, result in whole]
        advantages = []
        for totals in training_totals(scored, self._config.rewards):
            values = group_advantages(totals.values, self._minimum, totals.size)
            assert values is not None  # groups with fewer survivors were dropped
            advantages.append(values)
        return StepBatch(groups, scored, advantages, dropped, self.rewards.take_usage())

    def _request(self, step: int, place: int, prompt: Prompt, attempt: int) -> GenerationRequest:
        again = ("attempt", attempt) if attempt else ()
        return GenerationRequest(
            prompt,
            tuple(
                derived_seed(self._config.seed, "train", step, place, index, *again)
                for index in range(self._config.rollout.group_size)
            ),
        )

    def _record_drop(self, step: int, attempt: int, group: ScoredGroup) -> None:
        survivors, size = _survivors(group), len(group.totals)
        log.warning(
            "step %d: group of prompt %s dropped, %d of %d trajectories scored: %s",
            step + 1, group.prompt.id, survivors, size, _reasons(group),
        )  # fmt: skip
        self._folder.append(
            "dropped.jsonl",
            {
                "step": step + 1,
                "attempt": attempt + 1,
                "prompt_id": group.prompt.id,
                "prompt": group.prompt.text,
                "survivors": survivors,
                "group_size": size,
                "reasons": failure_reasons([group]),
            },
        )


def _survivors(group: ScoredGroup) -> int:
    """How many of its trajectories were scored by every reward."""
    return sum(total is not None for total in group.totals)


def _reasons(group: ScoredGroup) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in failure_reasons([group]).items())
