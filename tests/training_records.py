"""What a training run left behind, as tests compare it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.record.metrics import TABLES, find
from policy.types import JsonDict


def rows(run: Path, name: str = "metrics.jsonl") -> list[JsonDict]:
    """The rows of a file; each key of metrics must be in the table of metrics."""
    found = [json.loads(line) for line in (run / name).read_text().splitlines()]
    if name in TABLES:
        for row in found:
            check_keys(row, name)
    return found


def check_keys(row: Iterable[str], name: str = "metrics.jsonl") -> None:
    """Fail unless every key of a row of the file ``name`` is in the table of metrics."""
    unknown = [key for key in row if find(key, TABLES[name]) is None]
    assert not unknown, f"{name}: not in orchestrator/record/metrics.py: {', '.join(unknown)}"


def untimed(run: Path) -> list[JsonDict]:
    """The metrics of every step but those that say when and how long."""
    return [{key: value for key, value in row.items() if not _timed(key)} for row in rows(run)]


def _timed(key: str) -> bool:
    metric = find(key)
    return metric is not None and metric.kind == "time"


# What a replay cannot know, besides the times that ``untimed`` leaves out.
_OF_WORKERS = ("probe/gap", "scoring/", "workers/", "evaluation/")


def of_the_learner(rows: Sequence[JsonDict]) -> list[JsonDict]:
    """The rows without what only rollout and reward workers can tell.

    Failures of rewards are numbers of the kept scores, and so a replay knows them.
    """
    return [
        {
            key: value
            for key, value in row.items()
            if not key.startswith(_OF_WORKERS) or key.endswith("/failed")
        }
        for row in rows
    ]


def weights_digest(run: Path, step: int) -> str:
    file = run / "checkpoints" / f"step-{step}" / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def kept(run: Path) -> dict[str, bytes]:
    """Every file of the kept trajectories, by its path."""
    folder = run / "trajectories"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
