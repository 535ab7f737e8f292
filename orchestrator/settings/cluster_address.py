"""Finds the Ray cluster that a run is to use, without importing Ray."""

from __future__ import annotations

import os


def cluster_address(configured: str | None) -> str | None:
    """The address of the existing cluster to use, or None if the run starts a cluster of its own.

    The configured address counts first, then the variable RAY_ADDRESS, which ``ray job submit``
    sets. Ray knows two special addresses: ``local`` starts a new cluster, and ``auto`` looks for
    one that runs.
    """
    address = configured or os.environ.get("RAY_ADDRESS") or "local"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    return None if address == "local" else address


def in_submitted_job() -> bool:
    """Whether ``ray job submit`` started this process. Ray then sets the variable."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def awaited_cluster(configured: str | None) -> str:
    """What a run waits for until it has its cluster."""
    address = cluster_address(configured)
    return "starting Ray" if address is None else f"connecting to the Ray cluster {address}"
