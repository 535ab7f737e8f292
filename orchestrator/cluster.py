"""The Ray cluster a run lives on: a private one on loopback unless an address is given.

Failure policy: a cluster that cannot be reached or started is a ``UserError`` before any actor
exists; a private cluster ends with the process that started it.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from policy.errors import UserError


def cluster_address(configured: str | None) -> str | None:
    """The existing cluster to use: as configured, or as ``ray job submit`` says; else None."""
    return configured or os.environ.get("RAY_ADDRESS")


def in_submitted_job() -> bool:
    """Whether ``ray job submit`` started this process: its supervisor sets the variable."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextmanager
def ray_cluster(
    address: str | None = None, num_cpus: float = 2, object_store_mb: int = 512
) -> Iterator[None]:
    """Connect to ``address``, or start a private cluster that listens on loopback only.

    ``num_cpus`` is bookkeeping: in the synchronous schedule roles take turns, so the sum of what
    the actors ask for may exceed the cores there are.
    """
    address = cluster_address(address)
    if address is None:
        private_environment()
    import ray

    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                num_cpus=max(1, round(num_cpus + 0.499)),
                object_store_memory=object_store_mb * 2**20,
                include_dashboard=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )
    except Exception as error:  # Ray raises a bare Exception when a node is slow to start
        where, reason = address or "a private cluster", " ".join(str(error).split())
        raise UserError(
            f"cluster.address: cannot start or reach Ray ({where}): {reason}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def private_environment() -> None:
    """Loopback sockets only, and a token that other users of this machine do not know.

    Ray reads these variables when it is first imported: call this before. The token lives in the
    environment of this process and its children; Ray would otherwise write one to the home
    folder, where a later cluster would find it and refuse its clients.

    Raises ``RuntimeError`` when Ray was imported without them.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise RuntimeError("private_environment() must be called before ray is imported")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
