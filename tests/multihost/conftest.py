"""Three hosts with a Ray cluster, for all tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multihost.by_hand import Cluster, started_cluster
from tests.multihost.hosts import needs_hosts


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs and two hosts for workers."""
    needs_hosts()
    # A short path, because Ray keeps sockets below it.
    with (
        tempfile.TemporaryDirectory(prefix="mh", dir="/tmp", ignore_cleanup_errors=True) as folder,
        started_cluster(Path(folder), tmp_path_factory.mktemp("shared")) as cluster,
    ):
        yield cluster
