"""The reward worker as a real Ray actor."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from policy.types import Group, Prompt, RewardFailure, RewardResult, Score, Trajectory
from rewards.config import RewardConfig
from rewards.worker import start_reward_worker

pytestmark = pytest.mark.cluster
NO_IDS, NO_FLOATS = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


class PixelOfPrompt:
    """First pixel minus the number of nouns; fails when there are none; says if torch is loaded."""

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        return [
            Score(
                float(image[0, 0, 0]) - len(prompt.nouns),
                {"torch": float("torch" in sys.modules)},
            )
            if prompt.nouns
            else RewardFailure("nothing to look for")
            for image, prompt in zip(images, prompts, strict=True)
        ]


def group(nouns: tuple[str, ...], values: Sequence[int]) -> Group:
    prompt = Prompt(id="p:1", text="text", task_type="color", nouns=nouns)
    return Group(
        prompt,
        tuple(
            Trajectory(
                prompt_id=prompt.id, index_in_group=index, weight_version=0, seed=index,
                cot_prompt_ids=NO_IDS, cot_ids=NO_IDS, cot_logprobs=NO_FLOATS,
                cot_entropies=NO_FLOATS, cot_text="", image_prompt_ids=NO_IDS, image_ids=NO_IDS,
                image_logprobs_conditional=NO_FLOATS, image_entropies_conditional=NO_FLOATS,
                image_logprobs_guided=NO_FLOATS, image_entropies_guided=NO_FLOATS,
                image=np.full((16, 16, 3), value, dtype=np.uint8),
            )
            for index, value in enumerate(values)
        ),
    )  # fmt: skip


def test_groups_are_scored_where_they_lie(ray_cluster: None) -> None:
    """Results come grouped as the trajectories are, by their own prompts, from store references.

    Batches go across groups, and a reward that needs no torch runs in a process without it.
    """
    config = RewardConfig(name="pixel", factory=f"{__name__}:PixelOfPrompt", batch_size=2)
    worker = start_reward_worker(config)
    groups = [group(("circle",), [3, 4, 5]), group((), [6]), group(("a", "b"), [7])]
    results = ray.get(worker.score.remote(*map(ray.put, groups)))
    ray.kill(worker)
    failure = RewardFailure("nothing to look for")
    assert [[getattr(r, "value", r) for r in row] for row in results] == [[2, 3, 4], [failure], [5]]
    assert results[0][0].detail["torch"] == 0
