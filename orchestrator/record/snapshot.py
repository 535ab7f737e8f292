"""What the driver of a run sees at one moment, as it tells the exporter once a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Snapshot:
    """Numbers of one moment within a step.

    Example: ``Snapshot(3, (3, 2), {("rollout", "", "idle"): 2}, {("rollout", ""): 0}, {"ready": 4},
    {"late_refused": 0})``.
    """

    published: int | None  # the newest weight version; None before the first
    serving: Sequence[int | None]  # weight version of each rollout worker; None before its first
    workers: Mapping[tuple[str, str, str], int]  # by role, reward ("" for the others) and state
    queued: Mapping[tuple[str, str], int]  # batches that wait, by role and reward
    groups: Mapping[str, int]  # groups of the steps in flight, by state
    counts: Mapping[str, int]  # the ledger's, by name
