"""Reads where a run is from its folder and its ledger. The run may go on or have ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.pipeline.ledger_view import LedgerView
from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.record.progress import RECENT
from orchestrator.record.run_folder import LOCK, check_there, read_rows
from policy.text_files import read_text
from policy.yaml_text import parse

# A driver notes its workers every second. It is silent for longer while a file is written or Redis
# is slow.
_SILENT_S = 15.0


@dataclass(frozen=True)
class RunStatus:
    """One moment of a run."""

    folder: Path
    steps: int  # of the whole run
    ledger: LedgerView
    now: float  # Unix time of this moment
    driver: int | None  # its process, if it runs on this machine
    recent_s: float | None  # duration of a step, mean of the last ones; None before the first
    checkpoint: Path | None  # the last whole one

    @property
    def silent_s(self) -> float:
        """Seconds since the driver's last sign of life, by the clock of this machine."""
        noted = max((worker.since for worker in self.ledger.workers), default=0.0)
        return max(0.0, self.now - max(noted, self.ledger.taken))

    @property
    def alive(self) -> bool:
        """Whether the driver runs: here, or on another machine and heard of lately."""
        return self.driver is not None or self.silent_s < _SILENT_S

    @property
    def left_s(self) -> float | None:
        """Seconds until the last step is done, at the pace of the last ones."""
        left = self.steps - self.ledger.committed
        return None if self.recent_s is None else left * self.recent_s


def read_status(folder: Path, now: float) -> RunStatus:
    """The status at ``now``. Raises ``UserError`` when the folder has no run, or its ledger cannot
    be read."""
    check_there(folder)
    ledger, settings = read_run(folder), folder / "config.yaml"
    last = [row["seconds/step"] for row in read_rows(folder / "metrics.jsonl")][-RECENT:]
    return RunStatus(
        folder=folder,
        steps=parse(read_text(settings), str(settings))["steps"],
        ledger=ledger,
        now=now,
        driver=locked_by(folder / LOCK),
        recent_s=sum(last) / len(last) if last else None,
        checkpoint=OwnCheckpoints(folder).last(),
    )


def locked_by(file: Path) -> int | None:
    """The process of this machine that has locked the file; None if none has.

    The kernel's list of locks tells it. To try the lock would keep out a run that starts meanwhile.
    """
    if not file.is_file():
        return None
    found = file.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    for line in Path("/proc/locks").read_text().splitlines():
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:00:2146332 0 EOF"
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{found.st_ino}":
            return int(words[4])
    return None
