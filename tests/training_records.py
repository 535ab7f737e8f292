"""What a training run left behind, as tests compare it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from policy.types import JsonDict

TIMED = ("time", "seconds/")


def rows(run: Path, name: str = "metrics.jsonl") -> list[JsonDict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def untimed(run: Path) -> list[JsonDict]:
    """The metrics of every step but those that say when and how long."""
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows(run)
    ]


def weights_digest(run: Path, step: int) -> str:
    file = run / "checkpoints" / f"step-{step}" / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()
