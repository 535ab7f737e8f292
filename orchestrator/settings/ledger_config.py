"""The settings of the ledger, the record in Redis of where every prompt group is."""

from __future__ import annotations

from pydantic import Field

from policy.base_settings import Deadline, RedisUrl, Settings


class LedgerConfig(Settings):
    """Which Redis has the ledger, and how long a run waits for it."""

    url: RedisUrl | None = Field(
        default=None,
        description="redis://host:port/db, rediss:// or unix://; default: REDIS_URL, or else a"
        " server that the run starts. Give a URL with a password in REDIS_URL instead",
    )
    timeout_s: Deadline = Field(
        default=300, description="seconds that a run waits for a Redis that is away, and then ends"
    )
