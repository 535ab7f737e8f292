"""Scores images with one reward. Every image gets a result, whatever the reward does wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.secrets import masked
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.cache import ScoreCache, content_key, decode, encode
from rewards.protocol import Reward, TransientRewardError

_TRANSIENT_ERRORS = (TransientRewardError, TimeoutError, ConnectionError)


@dataclass
class ScoringWork:
    """What scoring took: size and seconds of each ``score()`` call, and the cache's hits."""

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
    """Cuts images into batches, and turns every error of a reward into a ``RewardFailure``.

    A failure never becomes a number such as 0 or NaN. ``identity`` names the reward, its settings
    and its weights in the keys of the cache. Without a cache it is not used.
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

    @property
    def digest(self) -> str | None:
        """What identifies the reward's weights, if the reward says so."""
        return getattr(self._reward, "digest", None)

    def take_work(self) -> ScoringWork:
        """The work since the last call of this method."""
        work, self._work = self._work, ScoringWork()
        return work

    def score(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[Prompt],
        remember: bool = False,
    ) -> list[RewardResult]:
        """One result per image, in order; does not raise.

        With ``remember``, scores are first looked up in the cache, and new ones are kept there.
        Without it, the cache is neither read nor written.
        """
        if self._cache is None or not remember:
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
        except _TRANSIENT_ERRORS as error:
            return [RewardFailure(_describe(error), transient=True)] * len(images)
        except Exception as error:
            if len(images) == 1:
                return [RewardFailure(_describe(error))]
            # The error does not say which image caused it. Alone, only that image fails.
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
    """The result, or a ``RewardFailure`` that says why it is not valid."""
    if isinstance(result, RewardFailure):
        return replace(result, reason=_text(result.reason))
    if not isinstance(result, Score):
        return RewardFailure(f"returned {type(result).__name__}, not Score or RewardFailure")
    if not isinstance(result.applicable, bool):
        return RewardFailure(
            f"applicable is of type {type(result.applicable).__name__}, not a bool"
        )
    try:
        return replace(
            result, value=_number("score", result.value), detail=_checked_detail(result.detail)
        )
    except ValueError as error:
        return RewardFailure(str(error))


def _checked_detail(detail: Any) -> dict[str, float] | None:
    """The detail as metrics can hold it. Raises ``ValueError`` when they cannot."""
    if detail is None:
        return None
    if not isinstance(detail, Mapping):
        raise ValueError(f"detail is of type {type(detail).__name__}, not a mapping")
    for part in detail:
        if not isinstance(part, str):
            raise ValueError(f"detail has a part named {part!r}, not by a string")
    return {_text(part): _number(f"detail {part!r}", value) for part, value in detail.items()}


def _number(what: str, value: Any) -> float:
    """The value as a finite float. Raises ``ValueError`` that names ``what`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{what} is of type {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}")
    return number


def _describe(error: Exception) -> str:
    return _text(f"{type(error).__name__}: {error}")


def _text(value: Any) -> str:
    """The value as text that can be written in UTF-8: lone surrogates escaped, secrets masked."""
    return masked(str(value).encode("utf-8", "backslashreplace").decode())
