"""Three hosts with a Ray cluster, for all tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from multihost.hosts import Cluster, started_cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and two hosts for workers."""
    if reason := why_not():
        pytest.skip(reason)
    # A short path, because Ray keeps sockets below it.
    with (
        tempfile.TemporaryDirectory(prefix="mh", dir="/tmp", ignore_cleanup_errors=True) as folder,
        started_cluster(Path(folder)) as cluster,
    ):
        yield cluster
