"""Scoring with one reward, whatever the reward does: every image gets a result of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.protocol import Reward


class RewardScorer:
    """Cuts images into batches and turns every misbehaviour of a reward into ``RewardFailure``.

    A failure is never a number: not 0, not NaN.
    """

    def __init__(self, reward: Reward, batch_size: int) -> None:
        self._reward = reward
        self._batch_size = batch_size

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order; does not raise."""
        results: list[RewardResult] = []
        for start in range(0, len(images), self._batch_size):
            batch = slice(start, start + self._batch_size)
            results += self._score_batch(images[batch], prompts[batch])
        return results

    def _score_batch(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        try:
            results = list(self._reward.score(images, prompts))
            if len(results) != len(images):
                raise ValueError(f"{len(results)} results for {len(images)} images")
        except Exception as error:
            if len(images) == 1:
                return [RewardFailure(f"{type(error).__name__}: {error}")]
            # Which image is to blame is unknown; alone, only that one fails.
            return [
                result
                for image, prompt in zip(images, prompts, strict=True)
                for result in self._score_batch([image], [prompt])
            ]
        return [_checked(result) for result in results]


def _checked(result: Any) -> RewardResult:
    """The result itself, or why it cannot stand."""
    if isinstance(result, RewardFailure):
        return result
    if not isinstance(result, Score):
        return RewardFailure(f"returned {type(result).__name__}, not Score or RewardFailure")
    if not isinstance(result.value, int | float | np.integer | np.floating):
        return RewardFailure(f"score is of type {type(result.value).__name__}, not a number")
    value = float(result.value)
    if not math.isfinite(value):
        return RewardFailure(f"score is {value}")
    return replace(result, value=value)
