"""The run folder: everything a run leaves behind, and the lock that keeps a second run out.

``runs/<name>/``: ``config.yaml``, ``inputs.json``, ``metrics.jsonl``, ``evaluations.jsonl``,
``dropped.jsonl``, ``skipped.jsonl``, ``samples/``, ``checkpoints/step-N/``, ``report.html``,
``run.log``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

from orchestrator.record.own_checkpoints import WRITTEN, OwnCheckpoints, checkpoint_step
from policy.disk import is_in_part, made_anew, write_whole, writing
from policy.errors import UserError
from policy.text_files import decoded, parse_json
from policy.types import JsonDict

LONGEST_NEW = 90  # characters of a name to which a number may be added
_LOCK = ".lock"
_OF_A_START = (_LOCK, "config.yaml", "inputs.json", "run.log", f"checkpoints/{WRITTEN}")
_ROWS = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "dropped.jsonl",
    "skipped.jsonl",
    "samples/records.jsonl",
)


class FolderInUse(UserError):
    """A living process has the run folder."""


class RunFolder:
    """Owns one run's files; hold it open for the life of the run.

    Raises ``UserError`` when the folder cannot be written, is in use by a living process, or
    holds anything that ``resume`` does not continue: nothing is deleted or overwritten but what
    this run's history wrote.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.checkpoints = OwnCheckpoints(path)
        if resume and not path.is_dir():
            raise UserError(f"run folder {path} does not exist: nothing to resume")
        if not resume:
            _check_unused(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / _LOCK).open("a+")
        except OSError as error:
            raise UserError(f"run folder {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise FolderInUse(f"run folder {path} is in use by another process") from None
        try:
            if resume:
                self._check_resumable()
            for name in ("samples", "checkpoints"):
                with writing(path / name):
                    (path / name).mkdir(exist_ok=True)
            if not resume:
                self.checkpoints.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def fresh(cls, root: Path, name: str) -> Self:
        """The first of ``name``, ``name-2``, ... that is not there. Made here, so that of two
        processes at once each has its own."""
        while True:
            try:
                path = made_anew(root / name)
            except OSError as error:
                raise UserError(f"root: {root} cannot be written: {error.strerror}") from None
            try:
                return cls(path)
            except FolderInUse:  # by a run that was told to take this very name
                continue

    def _check_resumable(self) -> None:
        last = self.checkpoints.last()
        if last is None:
            raise UserError(f"run folder {self.path} has no checkpoint to resume from; give --new")
        self.checkpoints.check_room_after(last)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    # Rows

    def append(self, name: str, row: JsonDict) -> None:
        """Add one JSON object to a ``.jsonl`` file and flush it to the disk."""
        text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str) -> list[JsonDict]:
        """See ``read_rows``."""
        return read_rows(self.path / name)

    def resume_from(self, checkpoint: Path) -> None:
        """Drop rows and checkpoints that the history resumed from ``checkpoint`` never had."""
        self.checkpoints.resume_from(checkpoint)
        for name in _ROWS:
            step = checkpoint_step(checkpoint)
            self._replace(name, [row for row in self.rows(name) if row["step"] <= step])

    def _replace(self, name: str, rows: Iterable[JsonDict]) -> None:
        file = self.path / name
        if not file.is_file():
            return
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(file: Path) -> list[JsonDict]:
    """All rows of a ``.jsonl`` file, none if it is not there.

    A last line without its end is what a crash leaves, and no row. Any other line that is no JSON
    object, read strictly, raises ``UserError`` with file and line: the history is damaged.
    """
    if not file.is_file():
        return []
    content = file.read_bytes()
    text = decoded(content[: content.rfind(b"\n") + 1], file)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        row = parse_json(line, file, number)
        if not isinstance(row, dict):
            raise UserError(f"{file}:{number}: damaged: not a JSON object")
        rows.append(row)
    return rows


def _check_unused(path: Path) -> None:
    """Raise ``UserError`` when a new run would mix with what is there: all but the files of a run
    that ended while it was starting, which the next start writes anew."""
    if not path.is_dir():
        return
    names = list(_files(path))  # before the lock is looked for: another run may begin meanwhile
    begun = (path / _LOCK).is_file()  # otherwise no run made the folder, and all of it is a user's
    found = next((name for name in names if not (begun and name in _OF_A_START)), None)
    if found is None:
        return
    if begun and OwnCheckpoints(path).last() is not None:
        raise UserError(
            f"run folder {path} holds a run ({found}); give --resume to go on, or --new"
        )
    raise UserError(f"run folder {path} is not empty ({found}); give --new or another name")


def _files(path: Path) -> Iterator[str]:
    """Names of what is in the folder, in order, but for what is being written; of ``samples/`` and
    ``checkpoints/`` what is in them."""
    for entry in sorted(path.iterdir()):
        if is_in_part(entry.name):
            continue
        if entry.name in ("samples", "checkpoints") and entry.is_dir():
            names = (inner.name for inner in sorted(entry.iterdir()))
            yield from (f"{entry.name}/{name}" for name in names if not is_in_part(name))
        else:
            yield entry.name
