"""Shared by every test: process settings, and one Ray cluster for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.cluster import private_environment
from policy.runtime import tune_process

tune_process()
private_environment()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster on loopback; actors of all tests share it."""
    from orchestrator.cluster import ray_cluster as start

    with start(num_cpus=8, object_store_mb=256):
        yield
