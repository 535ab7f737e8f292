"""What the driver of a run sees at one moment, for those who show a run while it goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_OF_WORKERS = ("its worker died", "its worker failed", "its answer was lost")
_TIMEOUT = re.compile(r"no answer within|[\w.]*Timeout(Error|Exception)?:")
_EXCEPTION = re.compile(r"[A-Za-z_.]*(Error|Exception|Interrupt|Exit):")


@dataclass(frozen=True)
class Live:
    """Numbers of one moment within a step.

    Example: ``Live(3, (3, 2), {("rollout", "", "idle"): 2}, {("rollout", ""): 0}, {"ready": 4},
    {"late_refused": 0})``.
    """

    published: int | None  # the newest weight version; None before the first
    serving: Sequence[int | None]  # weight version of each rollout worker; None before its first
    workers: Mapping[tuple[str, str, str], int]  # by role, reward ("" for the others) and state
    queued: Mapping[tuple[str, str], int]  # batches that wait, by role and reward
    groups: Mapping[str, int]  # groups of the steps in flight, by state
    counts: Mapping[str, int]  # the ledger's, by name


def failure_kind(reason: str) -> str:
    """The kind of a reason for which a score failed: one of ``exported.FAILURE_REASONS``.

    Reasons are sentences of any text, so a label of Prometheus cannot have them.
    """
    if reason.startswith(_OF_WORKERS):
        return "worker"
    if _TIMEOUT.match(reason):
        return "timeout"
    return "error" if _EXCEPTION.match(reason) else "reward"
