"""Shared by every test: process settings, and one Ray cluster for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from orchestrator.cluster import private_environment
from policy.runtime import tune_process

tune_process()
private_environment()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster on loopback with one logical GPU; actors of all tests share it."""
    from orchestrator.cluster import ray_cluster as start

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            # Whatever this machine has or hides: Ray counts a GPU that no test computes on.
            environment.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
            environment.setenv("CUDA_VISIBLE_DEVICES", "0")
            stack.enter_context(start(num_cpus=8, object_store_mb=256))
        yield
