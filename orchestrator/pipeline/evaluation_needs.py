"""What the workers that an evaluation still has to start need to find on their hosts."""

from __future__ import annotations

from typing import Any

from orchestrator.pipeline.evaluation import Evaluation
from orchestrator.pipeline.evaluation_scoring import ROUNDS, prompts_per_round
from orchestrator.settings.host_needs import HostNeeds
from orchestrator.settings.object_store import OBJECT_BYTES
from orchestrator.settings.resources import reward_role, rollout_role
from policy.checkpoint.loading import read_config
from policy.image_files import image_bytes


def needs_of_evaluation(evaluation: Evaluation) -> HostNeeds:
    """What the roles need that have something left to draw or to score.

    One role works at a time, so the object store holds the images of one. The weights of the policy
    never pass through it.
    """
    inputs, config = evaluation.inputs, evaluation.inputs.config
    images = inputs.images_per_prompt
    rewards = evaluation.scorers_left()
    one = _bytes_of_an_image(evaluation) + OBJECT_BYTES
    scoring = [ROUNDS * prompts_per_round(reward, images) * images * one for reward in rewards]
    roles = [reward_role(reward) for reward in rewards]
    model, drawing = None, 0
    if inputs.policy is not None and evaluation.to_draw():
        roles.insert(0, rollout_role(config.rollout))
        model = inputs.policy.model_path
        # Each worker has a batch that it samples and one that the driver fetches.
        drawing = 2 * config.rollout.workers * max(config.rollout.batch_size, images) * one
    needed = max(drawing, *scoring, 0)
    return HostNeeds(
        cluster=config.cluster,
        roles=roles,
        rewards=rewards,
        model=model,
        store_bytes=needed,
        reward_store_bytes=needed,
        vllm=config.rollout.engine == "vllm",
    )


def _bytes_of_an_image(evaluation: Evaluation) -> int:
    """The bytes of the largest image's pixels."""
    if evaluation.given is not None:
        return max(image_bytes(file, "--images") for file in evaluation.given.values())
    policy = evaluation.inputs.policy
    assert policy is not None  # either images are given, or a policy draws them
    vision: Any = read_config(policy.model_path).vision_config
    return 3 * int(vision.image_size) ** 2
