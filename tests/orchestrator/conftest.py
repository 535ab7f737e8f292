"""Shared by the tests of the orchestrator: reward pools, and no secret of another test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policy import secrets
from tests.started_pools import Started


@pytest.fixture(autouse=True)
def _no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that one test hides is not masked in the messages of the next."""
    monkeypatch.setattr(secrets, "_known", set())


@pytest.fixture
def start(ray_cluster: None) -> Iterator[Started]:
    """Starts reward pools that end with the test."""
    started = Started()
    yield started
    started.end()
