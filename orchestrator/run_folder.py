"""The run folder: everything a run leaves behind, and the lock that keeps a second run out.

``runs/<name>/``: ``config.yaml``, ``inputs.json``, ``metrics.jsonl``, ``evaluations.jsonl``,
``dropped.jsonl``, ``skipped.jsonl``, ``samples/``, ``checkpoints/step-N/``, ``report.html``,
``run.log``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from orchestrator.files import write_whole
from policy.errors import UserError
from policy.types import JsonDict

_STEP = re.compile(r"step-[0-9]+")
_ROWS = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "dropped.jsonl",
    "skipped.jsonl",
    "samples/records.jsonl",
)


class RunFolder:
    """Owns one run's files; hold it open for the life of the run.

    Raises ``UserError`` when the folder cannot be written, is in use by a living process, or
    already holds a run that ``resume`` does not continue.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        if resume and not path.is_dir():
            raise UserError(f"run folder {path} does not exist: nothing to resume")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"run folder {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"run folder {path} is in use by another process") from None
        if not resume and self.rows("metrics.jsonl"):
            self.close()
            raise UserError(f"run folder {path} holds a run; give --resume to go on, or --new")
        if resume and self.last_checkpoint() is None:
            self.close()
            raise UserError(f"run folder {path} has no checkpoint to resume from; give --new")
        (path / "samples").mkdir(exist_ok=True)
        (path / "checkpoints").mkdir(exist_ok=True)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    # Rows

    def append(self, name: str, row: JsonDict) -> None:
        """Add one JSON object to a ``.jsonl`` file and flush it to the disk."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str) -> list[JsonDict]:
        """See ``read_rows``."""
        return read_rows(self.path / name)

    def forget_after(self, step: int) -> None:
        """Drop rows and checkpoints of steps that the history resumed from ``step`` never had."""
        for name in _ROWS:
            kept = [row for row in self.rows(name) if row["step"] <= step]
            self._replace(name, kept)
        whole = self.checkpoints()
        for folder in _step_folders(self.path):
            if checkpoint_step(folder) > step or folder not in whole:
                shutil.rmtree(folder)

    def _replace(self, name: str, rows: Iterable[JsonDict]) -> None:
        file = self.path / name
        if not file.is_file():
            return
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    # Checkpoints

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[Path]:
        """See ``complete_checkpoints``."""
        return complete_checkpoints(self.path)

    def last_checkpoint(self) -> Path | None:
        """The complete checkpoint of the highest step."""
        complete = self.checkpoints()
        return complete[-1] if complete else None

    def keep_only(self, steps: set[int]) -> None:
        """Delete the checkpoints of all other steps but the best one."""
        best = self._best()
        kept = steps if best is None else steps | {best["step"]}
        for folder in _step_folders(self.path):
            if checkpoint_step(folder) not in kept:
                shutil.rmtree(folder)

    # The best checkpoint

    def is_better(self, evaluation_set: str, reward: float | None) -> bool:
        """Whether ``reward`` beats the best checkpoint's on the same fixed set."""
        best = self._best()
        if reward is None:
            return False
        return best is None or best["set"] != evaluation_set or reward > best["reward/mean"]

    def note_best(self, evaluation_set: str, step: int, reward: float | None) -> None:
        """Remember the checkpoint of ``step``, already written, if it is the best so far."""
        if not self.is_better(evaluation_set, reward):
            return
        row = {"step": step, "set": evaluation_set, "reward/mean": reward}
        write_whole(self._best_file, json.dumps(row) + "\n")
        self.keep_only({step})

    @property
    def _best_file(self) -> Path:
        return self.path / "checkpoints" / "best.json"

    def _best(self) -> JsonDict | None:
        """The best complete checkpoint; one that the resumed history never reached is none."""
        if not self._best_file.is_file():
            return None
        best: JsonDict = json.loads(self._best_file.read_text(encoding="utf-8"))
        return best if self.checkpoint(best["step"]) in self.checkpoints() else None


def read_rows(file: Path) -> list[JsonDict]:
    """All rows of a ``.jsonl`` file, none if it is not there.

    A last line without its end is what a crash leaves, and no row. Any other line that is no JSON
    object raises ``UserError`` with file and line: the history is damaged.
    """
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{file}:{number}: damaged: not a JSON object")
        rows.append(row)
    return rows


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoints by step; one without its manifest was cut off and does not count."""
    folders = _step_folders(run_folder)
    complete = [folder for folder in folders if (folder / "manifest.json").is_file()]
    return sorted(complete, key=checkpoint_step)


def _step_folders(run_folder: Path) -> list[Path]:
    """The run's own; a folder of another name, such as step-40-backup, is its user's."""
    entries = (run_folder / "checkpoints").glob("step-*")
    return [entry for entry in entries if _STEP.fullmatch(entry.name) and entry.is_dir()]


def checkpoint_step(folder: Path) -> int:
    """N of a ``step-N`` folder."""
    return int(folder.name.removeprefix("step-"))


def free_name(root: Path, name: str) -> str:
    """``name`` if no run ever began in its folder, else the first free one of ``name-2``, ..."""
    candidate, number = name, 1
    while (root / candidate / ".lock").is_file():
        number += 1
        candidate = f"{name}-{number}"
    return candidate
