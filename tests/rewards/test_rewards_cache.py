"""The score cache: what it finds is what was computed, and whatever is wrong is a miss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policy.errors import UserError
from policy.types import NumeracyItem, Prompt, Score
from rewards.cache import (
    PREFIX,
    MemoryCache,
    RedisCache,
    ScoreCache,
    content_key,
    decode,
    encode,
    resolve_cache,
)
from rewards.config import CacheConfig, RewardConfig
from rewards.identity import scorer_identity
from tests.redis_server import redis_server

PROMPT = Prompt(id="p:1", text="two cats", task_type="numeracy", nouns=("cat",))
IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> ScoreCache:
    if request.param == "memory":
        return MemoryCache(100)
    return RedisCache(request.getfixturevalue("url"))


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    detail=st.none() | st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_a_score_comes_back_to_the_last_bit(value: float, detail: dict[str, float] | None) -> None:
    """Value and details, through JSON."""
    score = Score(value, detail)
    assert decode(encode(score)) == score


@given(place=st.integers(0, 40), replacement=st.characters(codec="utf-8"))
def test_a_damaged_entry_is_a_miss(place: int, replacement: str) -> None:
    """Any one character changed, any end cut off: never another score."""
    entry = encode(Score(0.53125, {"part": 1.0}))
    assert entry is not None
    changed = entry[:place] + replacement + entry[place + 1 :]
    assert decode(changed) is None or changed == entry
    assert decode(entry[:place]) is None


def test_what_json_cannot_hold_is_not_kept() -> None:
    """A NaN among the details."""
    assert encode(Score(1.0, {"part": float("nan")})) is None


def test_the_key_knows_everything_that_a_score_depends_on() -> None:
    """One changed pixel, shape, prompt field or scorer is another key."""
    brighter = IMAGE.copy()
    brighter[0, 0, 0] += 1
    keys = [
        content_key(IMAGE, PROMPT, "hps"),
        content_key(brighter, PROMPT, "hps"),
        content_key(IMAGE.reshape(2, 8, 3), PROMPT, "hps"),
        content_key(IMAGE, replace(PROMPT, text="two dogs"), "hps"),
        content_key(IMAGE, replace(PROMPT, numeracy_info=(NumeracyItem("cat", 2),)), "hps"),
        content_key(IMAGE, replace(PROMPT, evaluation={"chunks": ["two cats"]}), "hps"),
        content_key(IMAGE, PROMPT, "git"),
    ]
    assert len(set(keys)) == len(keys)
    assert content_key(IMAGE.copy(), replace(PROMPT), "hps") == keys[0]


def test_the_scorer_is_reward_settings_code_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited reward, other options or other weights have no remembered scores."""
    (tmp_path / "my_cached_reward.py").write_text("class Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_cached_reward

    monkeypatch.setitem(sys.modules, "my_cached_reward", my_cached_reward)

    def identity(digest: str = "a", **changes: Any) -> str:
        reward = my_cached_reward.Mine()
        reward.digest = digest
        config = RewardConfig(name="mine", factory="my_cached_reward:Mine")
        return scorer_identity(config.model_copy(update=changes), reward)

    known = [identity(), identity(digest="b"), identity(options={"x": 1}), identity(name="other")]
    assert identity() == known[0]
    assert identity(workers=3) == known[0]
    (tmp_path / "my_cached_reward.py").write_text("class Mine: 'edited'\n")
    assert len({*known, identity()}) == 5


def test_entries_are_found_by_their_keys(cache: ScoreCache) -> None:
    """In order, with a gap for each that is not there."""
    cache.put({"a": "1", "b": "2"})
    assert cache.get(["b", "x", "a"]) == ["2", None, "1"]
    assert cache.get([]) == []


def test_memory_keeps_the_most_recently_used() -> None:
    """Of three entries, the one that was read survives the next."""
    cache = MemoryCache(2)
    cache.put({"a": "1", "b": "2"})
    cache.get(["a"])
    cache.put({"c": "3"})
    assert cache.get(["a", "b", "c"]) == ["1", None, "3"]


def test_redis_is_shared_expires_and_holds_no_pickles(url: str) -> None:
    """What one worker wrote another reads; entries end by themselves; damage is a miss."""
    entry = encode(Score(0.25))
    assert entry is not None
    RedisCache(url).put({"shared": entry})
    assert RedisCache(url).get(["shared"]) == [entry]
    client = redis.Redis.from_url(url)
    assert client.get(PREFIX + "shared") == entry.encode()
    assert 0 < client.ttl(PREFIX + "shared") <= 30 * 24 * 3600
    client.set(PREFIX + "shared", b"\xff\xfe\x80 not ours")
    (found,) = RedisCache(url).get(["shared"])
    assert found is not None
    assert decode(found) is None


def test_redis_that_goes_away_costs_one_wait_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are misses, writes are lost, nothing raises, and it is not asked again at once.

    Of 200 calls the first asks it; each that did might wait for a dead machine.
    """
    with redis_server(tmp_path) as address:
        cache = RedisCache(address)
        cache.put({"a": "1"})
        assert cache.get(["a"]) == ["1"]
    monkeypatch.setattr("rewards.cache._REDIS_REST_S", 3600)
    with (
        patch.object(redis.Redis, "mget", autospec=True, side_effect=redis.Redis.mget) as reads,
        patch.object(redis.Redis, "pipeline", autospec=True) as writes,
    ):
        for _ in range(100):
            assert cache.get(["a"]) == [None]
            cache.put({"b": "2"})
    assert (reads.call_count, writes.call_count) == (1, 0)


def test_the_settings_say_which_cache(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting first, then REDIS_URL, then memory; a Redis that is named must answer."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert resolve_cache(CacheConfig()).redis_url is None
    assert resolve_cache(CacheConfig(redis_url=url)).redis_url == url
    monkeypatch.setenv("REDIS_URL", url)
    assert resolve_cache(CacheConfig()).redis_url == url
    assert resolve_cache(CacheConfig(kind="memory")).redis_url is None
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/none")
    with pytest.raises(UserError, match=r"^REDIS_URL: no Redis answers there: ConnectionError$"):
        resolve_cache(CacheConfig())
    with pytest.raises(UserError, match=r"^cache\.redis_url: no Redis answers there"):
        resolve_cache(CacheConfig(redis_url=f"unix://{tmp_path}/none"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("localhost:6379", "must begin with"), ("redis://:secret@localhost/0", "in REDIS_URL")],
)
def test_a_url_that_cannot_stand_in_a_file_is_refused(wrong: str, message: str) -> None:
    """No scheme, or a password that would be written into the run folder."""
    with pytest.raises(ValidationError, match=message):
        CacheConfig(redis_url=wrong)
