"""Shared by the tests of reward pools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.started_pools import Started


@pytest.fixture
def start(ray_cluster: None) -> Iterator[Started]:
    """Starts reward pools that end with the test."""
    started = Started()
    yield started
    started.end()
