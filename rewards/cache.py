"""The score cache: one reward scores the same image and prompt only once.

Failure policy: a cache may forget a score. It never returns a wrong score and never stops a run.
An entry that is damaged, that another version wrote, or that cannot be reached is a miss. After a
Redis error, Redis is not asked for 30 s, so an outage costs one short wait and not one per batch.
Only scores are kept, never failures. An entry is JSON with a checksum. Nothing is unpickled, so an
entry that somebody else wrote cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Protocol, cast

import numpy as np
import redis
from numpy.typing import NDArray

from policy.errors import UserError
from policy.types import Prompt, Score
from rewards.config import CacheConfig

PREFIX = "eg-grpo:score:"
_EXPIRE_S = 30 * 24 * 3600
_REDIS_TIMEOUT_S = 2.0
_REDIS_REST_S = 30.0


def resolve_cache(config: CacheConfig) -> CacheConfig:
    """The settings with ``redis_url`` set to the Redis that will be used, or to None.

    Raises ``UserError`` when a Redis is named and does not answer.
    """
    if config.kind != "auto":
        return config.model_copy(update={"redis_url": None})
    key, url = "cache.redis_url", config.redis_url
    if url is None:
        key, url = "REDIS_URL", os.environ.get("REDIS_URL") or None
    if url is not None:
        check_redis(url, key)
    return config.model_copy(update={"redis_url": url})


def open_cache(resolved: CacheConfig) -> ScoreCache | None:
    """Open the cache of one worker; None when the settings ask for no cache."""
    if resolved.kind == "none":
        return None
    return RedisCache(resolved.redis_url) if resolved.redis_url else MemoryCache(resolved.entries)


class ScoreCache(Protocol):
    """Stores texts by key. Both methods take many keys at once, and neither raises."""

    def get(self, keys: Sequence[str]) -> list[str | None]: ...

    def put(self, entries: Mapping[str, str]) -> None: ...


class MemoryCache:
    """Keeps the most recently used entries in this process."""

    def __init__(self, entries: int) -> None:
        self._limit = entries
        self._entries: OrderedDict[str, str] = OrderedDict()

    def get(self, keys: Sequence[str]) -> list[str | None]:
        found = [self._entries.get(key) for key in keys]
        for key, entry in zip(keys, found, strict=True):
            if entry is not None:
                self._entries.move_to_end(key)
        return found

    def put(self, entries: Mapping[str, str]) -> None:
        for key, entry in entries.items():
            self._entries[key] = entry
            self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)


class RedisCache:
    """Keeps entries in Redis. All workers and runs that use one server share them."""

    def __init__(self, url: str) -> None:
        self._client = _client(url)
        self._rest_until = 0.0

    def get(self, keys: Sequence[str]) -> list[str | None]:
        if not keys or self._resting():
            return [None] * len(keys)
        try:
            found = cast(list[bytes | None], self._client.mget([PREFIX + key for key in keys]))
        except redis.RedisError:
            self._rest()
            return [None] * len(keys)
        # A client that decodes by itself would raise for a damaged entry, which must be a miss.
        return [entry if entry is None else entry.decode(errors="replace") for entry in found]

    def put(self, entries: Mapping[str, str]) -> None:
        if not entries or self._resting():
            return
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for key, entry in entries.items():
                    pipeline.set(PREFIX + key, entry, ex=_EXPIRE_S)
                pipeline.execute()
        except redis.RedisError:
            self._rest()

    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until

    def _rest(self) -> None:
        self._rest_until = time.monotonic() + _REDIS_REST_S


def check_redis(url: str, key: str) -> None:
    """Raise ``UserError`` when no Redis answers. It names ``key``, not the URL and its password."""
    try:
        _client(url).ping()
    except redis.AuthenticationError:
        raise UserError(f"{key}: Redis says that the password is missing or wrong") from None
    except (redis.RedisError, ValueError, OSError) as error:
        reason = type(error).__name__
        if url.startswith("rediss:"):
            reason += f" over TLS: {error.__context__ or error}"
        raise UserError(f"{key}: no Redis answers there: {reason}") from None


def content_key(image: NDArray[np.uint8], prompt: Prompt, scorer: str) -> str:
    """Digest of everything that a score depends on. ``scorer`` identifies reward and weights."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (scorer, json.dumps(asdict(prompt), sort_keys=True), repr(image.shape)):
        digest.update(hashlib.blake2b(part.encode()).digest())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def encode(score: Score) -> str | None:
    """The entry ``<checksum> <json>``; None for a score with details that JSON cannot hold."""
    try:
        text = json.dumps(asdict(score), allow_nan=False)
    except (TypeError, ValueError):
        return None
    return f"{_checksum(text)} {text}"


def decode(entry: str | None) -> Score | None:
    """The score in an entry; None if there is no entry or it is damaged."""
    checksum, _, text = (entry or "").partition(" ")
    if not text or checksum != _checksum(text):
        return None
    try:
        return Score(**json.loads(text))
    except (TypeError, ValueError):  # the entry is whole, but another version wrote it
        return None


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
    )
