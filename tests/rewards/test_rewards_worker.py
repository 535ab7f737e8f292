"""The reward worker as a real Ray actor."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from policy.types import Group, Prompt, RewardFailure, RewardResult, Score
from rewards.config import RewardConfig
from rewards.worker import start_reward_worker
from tests.image_groups import image_group

pytestmark = pytest.mark.cluster


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
    return image_group(Prompt(id="p:1", text="text", task_type="color", nouns=nouns), values)


def test_groups_are_scored_where_they_lie(ray_cluster: None) -> None:
    """Results come grouped as the selection is, by their own prompts, from store references.

    Batches go across groups, and a reward that needs no torch runs in a process without it.
    """
    config = RewardConfig(name="pixel", factory=f"{__name__}:PixelOfPrompt", batch_size=2)
    worker = start_reward_worker(config)
    groups = [group(("circle",), [3, 9, 5]), group((), [6]), group(("a", "b"), [7])]
    selection = [(0, 2), (0,), (0,)]
    reply = ray.get(worker.score.remote(selection, *map(ray.put, groups)))
    ray.kill(worker)
    failure = RewardFailure("nothing to look for")
    assert [[getattr(r, "value", r) for r in row] for row in reply.results] == [
        [2, 4],
        [failure],
        [5],
    ]
    assert reply.results[0][0].detail["torch"] == 0
    assert reply.work.batch_sizes == [2, 2]
    assert len(reply.work.seconds) == 2
