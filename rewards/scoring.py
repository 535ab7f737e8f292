"""Scoring with one reward, whatever the reward does: every image gets a result of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.cache import ScoreCache, content_key, decode, encode
from rewards.protocol import Reward, TransientRewardError

_TRANSIENT = (TransientRewardError, TimeoutError, ConnectionError)


@dataclass
class ScoringWork:
    """What scoring took: every ``score()`` call of the reward, and what the cache spared."""

    batch_sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cache_hits: int = 0
    cache_misses: int = 0

    def add(self, other: ScoringWork) -> None:
        self.batch_sizes += other.batch_sizes
        self.seconds += other.seconds
        self.cache_hits += other.cache_hits
        self.cache_misses += other.cache_misses


class RewardScorer:
    """Cuts images into batches and turns every misbehaviour of a reward into ``RewardFailure``.

    A failure is never a number: not 0, not NaN. ``identity`` tells the cache of which reward,
    settings and weights a score is; without a cache it is not used.
    """

    def __init__(
        self,
        reward: Reward,
        batch_size: int,
        cache: ScoreCache | None = None,
        identity: str = "",
    ) -> None:
        self._reward = reward
        self._batch_size = batch_size
        self._cache = cache
        self._identity = identity
        self._work = ScoringWork()

    def take_work(self) -> ScoringWork:
        """What was done since this was last asked."""
        work, self._work = self._work, ScoringWork()
        return work

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order; does not raise."""
        if self._cache is None:
            return self._score_all(images, prompts)
        keys = [content_key(i, p, self._identity) for i, p in zip(images, prompts, strict=True)]
        known = [decode(entry) for entry in self._cache.get(keys)]
        missing = [index for index, score in enumerate(known) if score is None]
        self._work.cache_hits += len(keys) - len(missing)
        self._work.cache_misses += len(missing)
        fresh = self._score_all([images[i] for i in missing], [prompts[i] for i in missing])
        entries = {
            keys[index]: entry
            for index, result in zip(missing, fresh, strict=True)
            if isinstance(result, Score) and (entry := encode(result)) is not None
        }
        self._cache.put(entries)
        rest = iter(fresh)
        return [next(rest) if score is None else score for score in known]

    def _score_all(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        results: list[RewardResult] = []
        for start in range(0, len(images), self._batch_size):
            batch = slice(start, start + self._batch_size)
            results += self._score_batch(images[batch], prompts[batch])
        return results

    def _score_batch(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        try:
            results = self._call(images, prompts)
        except _TRANSIENT as error:
            return [RewardFailure(_describe(error), transient=True)] * len(images)
        except Exception as error:
            if len(images) == 1:
                return [RewardFailure(_describe(error))]
            # Which image is to blame is unknown; alone, only that one fails.
            return [
                result
                for image, prompt in zip(images, prompts, strict=True)
                for result in self._score_batch([image], [prompt])
            ]
        return [_checked(result) for result in results]

    def _call(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> list[Any]:
        started = time.perf_counter()
        try:
            results = list(self._reward.score(images, prompts))
        finally:
            self._work.batch_sizes.append(len(images))
            self._work.seconds.append(time.perf_counter() - started)
        if len(results) != len(images):
            raise ValueError(f"{len(results)} results for {len(images)} images")
        return results


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


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
