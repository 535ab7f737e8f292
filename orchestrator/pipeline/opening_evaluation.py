"""Runs an evaluation on Ray: rollout workers draw, then the workers of each scorer score.

One role works at a time. So every role may have all GPUs of the cluster, and a machine with one GPU
needs room for one model. Workers are placed, and replaced when they are lost, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

from orchestrator.pipeline.evaluation import Evaluation
from orchestrator.pipeline.evaluation_drawing import draw
from orchestrator.pipeline.evaluation_needs import needs_of_evaluation
from orchestrator.pipeline.evaluation_scoring import prompts_per_round, score
from orchestrator.pipeline.opening_cluster import open_cluster
from orchestrator.record.counter import Counter
from orchestrator.record.progress import Progress
from orchestrator.record.run_log import logged_to
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.resources import reward_role, rollout_role
from orchestrator.settings.suite_inputs import EvaluatedPolicy
from orchestrator.workers.group_files import stored
from orchestrator.workers.host_checks import check_hosts
from orchestrator.workers.placement import claimed, claims
from orchestrator.workers.publisher import IdlePublisher
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.stopped_workers import watch_for_stopped_workers
from orchestrator.workers.waiting import wait_answers
from policy.errors import UserError
from policy.types import Group, RewardResult
from rewards.config import RewardConfig


def evaluate(evaluation: Evaluation, progress: Progress) -> None:
    """Draw and score what is missing. What is done stays done, whatever ends the process."""
    config = evaluation.inputs.config
    to_draw, policy = evaluation.to_draw(), evaluation.inputs.policy
    if not to_draw and not evaluation.scorers_left():
        return
    with logged_to(evaluation.folder.path / "evaluate.log"), ExitStack() as opened:
        asked = config.rollout.workers * config.rollout.cpus_per_worker
        asked += sum(reward.workers * reward.cpus_per_worker for reward in config.rewards)
        open_cluster(opened, config.cluster, asked, progress)
        if cluster_address(config.cluster.address) is not None:
            # What the hosts need depends on the size of every image, which takes a while to read.
            with progress.waiting("checking the hosts of the workers"):
                check_hosts(needs_of_evaluation(evaluation))
        if policy is not None and to_draw:
            _draw(evaluation, policy, to_draw, progress)
        for reward in config.rewards:
            if left := evaluation.to_score(reward.name):
                _score(evaluation, reward, left, progress)


def _draw(
    evaluation: Evaluation, policy: EvaluatedPolicy, places: list[int], progress: Progress
) -> None:
    inputs, config = evaluation.inputs, evaluation.inputs.config
    images, total = inputs.images_per_prompt, len(inputs.items) * inputs.images_per_prompt
    with (
        claimed(config.cluster, claims([rollout_role(config.rollout)])) as reserved,
        watch_for_stopped_workers() as stopped,
        closing(RolloutPool(config, policy, reserved)) as rollout,
    ):
        stopped.over(rollout)
        with progress.waiting("loading the policy on the rollout workers"):
            rollout.wait_ready()
        counter = Counter(progress.note, "images drawn", total, total - images * len(places))

        def keep(index: int, group: Group) -> None:
            evaluation.keep_drawn(places[index], group)
            counter.add(images)

        draw(
            [evaluation.request(place) for place in places],
            policy.sampling,
            config.rollout,
            rollout,
            IdlePublisher().publish(None, 0),
            wait_answers,
            keep,
        )


def _score(
    evaluation: Evaluation, reward: RewardConfig, left: dict[int, list[int]], progress: Progress
) -> None:
    inputs, config = evaluation.inputs, evaluation.inputs.config
    folder, images = evaluation.folder, inputs.images_per_prompt
    alone = config.model_copy(update={"rewards": (reward,)})
    with (
        claimed(config.cluster, claims([reward_role(reward)])) as reserved,
        watch_for_stopped_workers() as stopped,
        closing(RewardPools(alone, reserved)) as rewards,
    ):
        stopped.over(*rewards.pools.values())
        with progress.waiting(f"loading {reward.name} on the reward workers"):
            digest = rewards.wait_ready()[reward.name]
        if before := folder.digests(reward.name) - {digest}:
            raise UserError(
                f"--out: {folder.path} has scores of {reward.name} with the weights"
                f" {before.pop()}, which are not those that the settings name now"
            )

        all_places = sum(reward.name in item.scorers for item in inputs.items)
        counter = Counter(
            progress.note,
            f"images scored by {reward.name}",
            all_places * images,
            all_places * images - sum(map(len, left.values())),
        )
        earlier = folder.scored(reward.name)  # of places with some images that were judged

        def keep(place: int, results: Sequence[RewardResult]) -> None:
            judged = dict(enumerate(earlier.get(place, ())))
            judged |= zip(left[place], results, strict=True)
            folder.keep_scored(reward.name, digest, place, [judged[i] for i in sorted(judged)])
            counter.add(len(results))

        score(
            {place: len(indices) for place, indices in left.items()},
            lambda place: evaluation.group(place, left[place]),
            reward.name,
            prompts_per_round(reward, images),
            rewards,
            stored,
            wait_answers,
            keep,
        )
