"""The ledger's connection to Redis: it waits while Redis is away, and gives up after a while.

Failure policy: a request that Redis did not answer is sent again, after a pause that grows and is
drawn at random. So every request must be safe to repeat. The user is told when this lasts longer
than a second. After ``timeout_s`` the connection gives up: this request and all later ones raise
``RunFailed``, so that a run that ends does not wait again for each of them.
"""

from __future__ import annotations

import json
import random
import secrets as tokens
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.pipeline.ledger_view import LedgerView, view_of
from policy.errors import RunFailed, UserError
from policy.secrets import masked

_ANSWER_S = 10.0  # a Redis that answers later than this counts as away
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 3.0
_SILENT_S = 1.0  # an outage that is over by then is not worth a line
# Errors that pass when the server, its memory or its disk recovers.
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.OutOfMemoryError,
    redis.ReadOnlyError,
    OSError,
)
_DISK = "MISCONF"  # how the error of a server begins that cannot write its disk
_PREFIX = "eg-grpo:ledger:"
_PARTS = ("", ":groups", ":commits", ":workers", ":errors", ":counts", ":scaling")
_SCRIPT = files("orchestrator.pipeline").joinpath("ledger.lua").read_text(encoding="utf-8")
_T = TypeVar("_T")


class LedgerConnection:
    """Asks one Redis, about the ledger of one run."""

    def __init__(
        self,
        url: str,
        run: str,
        waiting: Callable[[str], None],
        timeout_s: float,
        revive: Callable[[], None] | None,
    ) -> None:
        """``waiting`` gets lines for the user. ``revive`` is called after each failure."""
        self.address = masked(url)
        self._client = _client(url, min(_ANSWER_S, timeout_s))
        self._script = self._client.register_script(_SCRIPT)
        self._keys = _keys(run)
        self._waiting, self._timeout_s, self._revive = waiting, timeout_s, revive
        self._given_up: RunFailed | None = None
        # The monotonic time since which a request waits for Redis; None when none waits.
        self.away_since: float | None = None

    def run_script(self, arguments: Sequence[str | int]) -> tuple[str, int, str]:
        """The answer of ``ledger.lua``."""
        answer = self._persist(lambda: self._script(keys=self._keys, args=arguments))
        return cast(tuple[str, int, str], tuple(cast(list[Any], answer)))

    def head(self, *names: str) -> list[str | None]:
        """Fields of the ledger's head; None for a field that there is not."""
        found = self._persist(lambda: self._client.hmget(self._keys[0], list(names)))
        return cast(list[str | None], found)

    def counts(self) -> dict[str, int]:
        """The ledger's counters."""
        found = self._persist(lambda: self._client.hgetall(self._keys[5]))
        return {name: int(count) for name, count in cast(dict[str, str], found).items()}

    def view(self) -> LedgerView | None:
        """The whole ledger; None if there is none."""
        return self._persist(lambda: _view(self._client, self._keys))

    def _persist(self, ask: Callable[[], _T]) -> _T:
        if self._given_up is not None:
            raise self._given_up
        began, pause, said = time.monotonic(), _FIRST_PAUSE_S, False
        while True:
            try:
                answer = ask()
            except (redis.RedisError, OSError) as error:
                reason = masked(str(error) or type(error).__name__)
                if not isinstance(error, _AWAY) and not reason.startswith(_DISK):
                    raise RunFailed(f"Redis ({self.address}): {reason}") from None
            else:
                self.away_since = None
                if said:
                    away_s = time.monotonic() - began
                    self._waiting(f"Redis ({self.address}) answers again after {away_s:.0f} s")
                return answer
            self.away_since = began
            try:
                if self._revive is not None:
                    self._revive()
            except RunFailed as error:
                reason = str(error)
            away_s = time.monotonic() - began
            if away_s > self._timeout_s:
                self._given_up = RunFailed(
                    f"Redis ({self.address}) has not answered for {self._timeout_s:g} s"
                    f" (ledger.timeout_s): {reason}"
                )
                raise self._given_up
            if away_s > _SILENT_S and not said:
                said = True
                self._waiting(
                    f"Redis ({self.address}) does not answer, waiting; the run goes on when it is"
                    f" back, and ends after {self._timeout_s:g} s (ledger.timeout_s): {reason}"
                )
            # A long pause must not pass over the moment at which the user is told, or the end.
            due_s = self._timeout_s if said else min(_SILENT_S, self._timeout_s)
            time.sleep(min(pause * random.uniform(0.5, 1), max(0.0, due_s - away_s) + 0.01))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def make_wish(
    connection: LedgerConnection, run_id: str, asked_by: str, wanted: Mapping[str, int]
) -> str:
    """Ask the driver of a run for other numbers of workers, by role; returns the wish's id.

    Raises ``UserError`` when there is no ledger of this run, and ``RunFailed`` when Redis stays
    away.
    """
    wish_id = tokens.token_hex(8)
    given = json.dumps({"asked_by": asked_by, "wanted": dict(wanted)})
    status, _, _ = connection.run_script(["wish", run_id, 0, 0, wish_id, given])
    if status != "ok":
        raise UserError(f"Redis ({connection.address}) has no ledger of run {run_id}")
    return wish_id


def read_ledger(url: str, run_id: str) -> LedgerView:
    """The ledger of a run, which may be going on in another process.

    Raises ``UserError`` when Redis does not answer or has no ledger of this run.
    """
    try:
        found = _view(_client(url, _ANSWER_S), _keys(run_id))
    except (redis.RedisError, OSError) as error:
        raise UserError(f"Redis ({masked(url)}): {masked(str(error))}") from None
    if found is None:
        raise UserError(f"Redis ({masked(url)}) has no ledger of run {run_id}")
    return found


def runs_at(url: str) -> set[str]:
    """The ids of all runs that have a ledger there. Meant for a server of our own: it is slow."""
    keys = cast(list[str], _client(url, _ANSWER_S).keys(f"{_PREFIX}{{*}}"))
    return {key.removeprefix(_PREFIX).strip("{}") for key in keys}


def answers(url: str) -> bool:
    """Whether a server accepts commands there. One that is still loading its data does not."""
    try:
        return bool(_client(url, 1.0).ping())
    except (redis.RedisError, OSError):
        return False


def _view(client: redis.Redis, keys: Sequence[str]) -> LedgerView | None:
    """Read all keys in one transaction."""
    head, groups, commits, workers, errors, counts, scaling = keys
    with client.pipeline(transaction=True) as pipeline:
        for key in (head, groups, commits, workers):
            pipeline.hgetall(key)
        pipeline.lrange(errors, 0, -1)
        pipeline.hgetall(counts)
        pipeline.lrange(scaling, 0, -1)
        found = pipeline.execute()
    return view_of(*found) if found[0] else None


def _keys(run: str) -> list[str]:
    # Redis Cluster puts keys with the same text in braces on one server.
    return [f"{_PREFIX}{{{run}}}{part}" for part in _PARTS]


def _client(url: str, timeout_s: float) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",
    )
