"""Guards around a reward: every way it can fail is a ``RewardFailure``, and only for its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.cache import MemoryCache
from rewards.protocol import TransientRewardError
from rewards.scoring import RewardScorer

PROMPT = Prompt(id="p:1", text="a red circle", task_type="color")


def image(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 3), value, dtype=np.uint8)


class Brightness:
    """Mean pixel; raises for any batch that holds a black image, and notes its batch sizes."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        self.batch_sizes.append(len(images))
        if any(not picture.any() for picture in images):
            raise RuntimeError("a black image")
        return [Score(float(picture.mean())) for picture in images]


class Returns:
    """Returns what it was given, for any image."""

    def __init__(self, results: Any) -> None:
        self.results = results

    def score(self, images: Sequence[Any], prompts: Sequence[Prompt]) -> Any:
        return self.results


def score(reward: Any, values: Sequence[int], batch_size: int = 64) -> list[RewardResult]:
    return RewardScorer(reward, batch_size).score(
        [image(v) for v in values], [PROMPT] * len(values)
    )


@given(
    values=st.lists(st.integers(min_value=0, max_value=3), max_size=12),
    batch_size=st.integers(min_value=1, max_value=5),
)
def test_a_bad_image_fails_alone(values: list[int], batch_size: int) -> None:
    """Whatever the batches, the images that make ``score`` raise fail and no others do."""
    results = score(Brightness(), values, batch_size)
    for value, result in zip(values, results, strict=True):
        expected = Score(float(value)) if value else RewardFailure("RuntimeError: a black image")
        assert result == expected


def test_images_are_scored_in_batches() -> None:
    """Seven images at batch size three are three calls."""
    reward = Brightness()
    score(reward, [1] * 7, batch_size=3)
    assert reward.batch_sizes == [3, 3, 1]


def test_only_the_batch_that_raised_is_repeated() -> None:
    """The batch with a black image is scored again one by one, the other is not."""
    reward = Brightness()
    score(reward, [1, 1, 1, 0], batch_size=2)
    assert reward.batch_sizes == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ([Score(float("nan"))], "score is nan"),
        ([Score(float("inf"))], "score is inf"),
        ([Score(float("-inf"))], "score is -inf"),
        ([Score(None)], "score is of type NoneType, not a number"),  # type: ignore[arg-type]
        ([Score("0.5")], "score is of type str, not a number"),  # type: ignore[arg-type]
        ([Score(True)], "score is of type bool, not a number"),
        ([Score(10**400)], "score is inf"),
        ([Score(1.0, {"part": float("inf")})], "detail 'part' is inf"),
        ([Score(1.0, {"part": np.float32("nan")})], "detail 'part' is nan"),  # type: ignore[dict-item]
        ([Score(1.0, {"part": "high"})], "detail 'part' is of type str, not a number"),  # type: ignore[dict-item]
        ([Score(1.0, {"part": True})], "detail 'part' is of type bool, not a number"),
        ([Score(1.0, {3: 1.0})], "detail has a part named 3, not by a string"),  # type: ignore[dict-item]
        ([Score(1.0, [1.0])], "detail is of type list, not a mapping"),  # type: ignore[arg-type]
        ([Score(1.0, None, 1)], "applicable is of type int, not a bool"),  # type: ignore[arg-type]
        ([0.5], "returned float, not Score or RewardFailure"),
        ([None], "returned NoneType, not Score or RewardFailure"),
        ([], "ValueError: 0 results for 1 images"),
        ([Score(1.0), Score(1.0)], "ValueError: 2 results for 1 images"),
        (None, "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_what_is_no_score_is_a_failure_with_its_reason(returned: Any, reason: str) -> None:
    """Never a number: not 0, not NaN."""
    assert score(Returns(returned), [1]) == [RewardFailure(reason)]


@pytest.mark.parametrize("value", [1, 0.25, np.float32(0.25), np.int64(3), 0.0, -2.0])
def test_any_finite_number_is_a_score(value: Any) -> None:
    """Zero and negative scores are scores; NumPy numbers become floats, in the detail too."""
    (result,) = score(Returns([Score(value, {"part": value})]), [1])
    assert isinstance(result, Score)
    assert result == Score(float(value), {"part": float(value)})
    assert result.detail is not None
    assert (type(result.value), type(result.detail["part"])) == (float, float)


@pytest.mark.parametrize(
    ("reason", "text"),
    [("too dark", "too dark"), (ValueError("too dark"), "too dark"), ("\ud83d", "\\ud83d")],
)
def test_a_failure_that_the_reward_reports_is_passed_on(reason: Any, text: str) -> None:
    """With its own reason, as text that a file can hold."""
    assert score(Returns([RewardFailure(reason)]), [1]) == [RewardFailure(text)]


def test_nothing_to_score_calls_nothing() -> None:
    """No image, no result, no call."""
    reward = Brightness()
    assert score(reward, []) == []
    assert reward.batch_sizes == []


@pytest.mark.parametrize(
    "error", [TransientRewardError("busy"), TimeoutError("busy"), ConnectionResetError("busy")]
)
def test_a_transient_error_fails_the_call_and_is_not_repeated_at_once(error: Exception) -> None:
    """A server that is busy is not asked again for each image: its caller waits first."""

    class Raises:
        calls = 0

        def score(self, images: Sequence[Any], prompts: Sequence[Prompt]) -> list[RewardResult]:
            self.calls += 1
            raise error

    reward = Raises()
    expected = RewardFailure(f"{type(error).__name__}: busy", transient=True)
    assert score(reward, [1, 2, 3]) == [expected] * 3
    assert reward.calls == 1


def test_what_is_known_is_not_computed_again() -> None:
    """Hits keep their place among the misses; failures are tried again; both are counted."""
    reward = Brightness()
    scorer = RewardScorer(reward, 64, MemoryCache(100), "brightness")
    for values in ([1, 0, 2], [2, 3, 1, 0]):
        results = scorer.score([image(v) for v in values], [PROMPT] * len(values), remember=True)
        assert [getattr(result, "value", None) for result in results] == [v or None for v in values]
    assert reward.batch_sizes == [3, 1, 1, 1, 2, 1, 1]
    work = scorer.take_work()
    assert (work.cache_hits, work.cache_misses) == (2, 5)
    assert work.batch_sizes == reward.batch_sizes
    assert scorer.take_work().batch_sizes == []


def test_what_is_not_to_be_remembered_leaves_the_cache_alone() -> None:
    """A score that the cache knows is computed again, nothing new is kept, nothing is counted."""
    reward, cache = Brightness(), MemoryCache(100)
    scorer = RewardScorer(reward, 64, cache, "brightness")
    scorer.score([image(1)], [PROMPT], remember=True)
    scorer.take_work()
    scorer.score([image(1), image(2)], [PROMPT] * 2)
    work = scorer.take_work()
    assert (work.cache_hits, work.cache_misses, work.batch_sizes) == (0, 0, [2])
    scorer.score([image(2)], [PROMPT], remember=True)
    assert scorer.take_work().cache_misses == 1
