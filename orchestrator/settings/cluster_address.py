"""Which Ray cluster a run belongs to, found out without Ray."""

from __future__ import annotations

import os


def cluster_address(configured: str | None) -> str | None:
    """The existing cluster to use: as configured, or as ``ray job submit`` says; else None.

    ``local`` is Ray's word for a cluster of one's own, ``auto`` for one that it has to find.
    """
    address = configured or os.environ.get("RAY_ADDRESS") or "local"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    return None if address == "local" else address


def in_submitted_job() -> bool:
    """Whether ``ray job submit`` started this process: its supervisor sets the variable."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
