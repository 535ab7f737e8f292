"""Scores remembered by content: the same image, prompt and reward are not computed twice.

Failure policy: a cache may forget, and may never lie or stop a run. An entry that is damaged, of
another form, or out of reach is a miss. Redis that fails is left alone for a while, so that an
outage costs one short wait and not one for each batch. Only scores are kept, never failures.
Entries are JSON with a checksum; nothing that comes from outside is unpickled.
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
    """The settings with the Redis that will be used, or none, as ``redis_url``.

    Raises ``UserError`` when the one that is named does not answer.
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
    """The cache of one worker."""
    if resolved.kind == "none":
        return None
    return RedisCache(resolved.redis_url) if resolved.redis_url else MemoryCache(resolved.entries)


class ScoreCache(Protocol):
    """Texts by key; both methods answer for many keys at once and do not raise."""

    def get(self, keys: Sequence[str]) -> list[str | None]: ...

    def put(self, entries: Mapping[str, str]) -> None: ...


class MemoryCache:
    """The most recently used entries, in this process."""

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
    """Entries shared by all workers and runs that use the same server."""

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
        # Bytes, not a decoding client: a damaged entry must be a miss and not an exception.
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
    """Raise ``UserError`` that names ``key`` when no Redis answers; never shows a password."""
    try:
        _client(url).ping()
    except (redis.RedisError, ValueError, OSError) as error:
        raise UserError(f"{key}: no Redis answers there: {type(error).__name__}") from None


def content_key(image: NDArray[np.uint8], prompt: Prompt, scorer: str) -> str:
    """Digest of everything a score depends on; ``scorer`` identifies reward and weights."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (scorer, json.dumps(asdict(prompt), sort_keys=True), repr(image.shape)):
        digest.update(hashlib.blake2b(part.encode()).digest())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def encode(score: Score) -> str | None:
    """``<checksum> <json>``; None for a score whose details JSON cannot hold."""
    try:
        text = json.dumps(asdict(score), allow_nan=False)
    except (TypeError, ValueError):
        return None
    return f"{_checksum(text)} {text}"


def decode(entry: str | None) -> Score | None:
    """The score of an entry; None if there is none or it is not whole."""
    checksum, _, text = (entry or "").partition(" ")
    if not text or checksum != _checksum(text):
        return None
    try:
        return Score(**json.loads(text))
    except (TypeError, ValueError):  # whole, but written by another version
        return None


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
    )
