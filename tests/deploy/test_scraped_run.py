"""A real Prometheus scrapes a real run: what it finds, and that it agrees with the run's files."""

from __future__ import annotations

import pytest
from scraped_run import ScrapedRun, scraped_run

from orchestrator.record.exported import EXPORTED

__all__ = ["scraped_run"]
pytestmark = pytest.mark.slow


def test_every_metric_of_the_table_is_scraped(scraped_run: ScrapedRun) -> None:
    """None of them is a name without a series."""
    names = [f"{m.name}_count" if m.kind == "histogram" else m.name for m in EXPORTED]
    assert [name for name in names if not scraped_run.query(name)] == []
