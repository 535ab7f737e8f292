"""The run folder: all files of a run, and the lock that keeps a second process out.

``runs/<name>/`` holds ``config.yaml``, ``inputs.json``, ``metrics.jsonl``, ``evaluations.jsonl``,
``dropped.jsonl``, ``skipped.jsonl``, ``samples/``, ``checkpoints/step-N/``,
``trajectories/step-N/``, ``report.html``, ``run.log``, ``ledger.json`` and ``ledger/``. While the
run goes on it also holds ``prometheus.json``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

from orchestrator.record import discovery
from orchestrator.record.kept_trajectories import KeptTrajectories
from orchestrator.record.own_checkpoints import WRITTEN, OwnCheckpoints, checkpoint_step
from policy.disk import is_in_part, locked, made_anew, write_whole, writing
from policy.errors import UserError
from policy.text_files import decoded, parse_json
from policy.types import JsonDict

LONGEST_NEW = 90  # characters of a name, so that ``-2`` and so on still fit behind it
LOCK = ".lock"
TRAINING_SAMPLES = "samples/training.jsonl"
_LIST = f"checkpoints/{WRITTEN}"
_OF_A_START = (
    *(LOCK, "config.yaml", "inputs.json", "run.log", "ledger.json", "ledger", discovery.FILE),
    f"checkpoints/{WRITTEN}",
)
_ROWS = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "dropped.jsonl",
    "skipped.jsonl",
    "samples/records.jsonl",
    TRAINING_SAMPLES,
)


def has_run(path: Path) -> bool:
    """Whether a run has begun in the folder. It may have no checkpoint yet."""
    begun = all((path / name).is_file() for name in ("config.yaml", _LIST))
    return begun or OwnCheckpoints(path).last() is not None


class FolderInUse(UserError):
    """Another process is using the run folder."""


class RunFolder:
    """Owns the files of one run. It stays open, and the folder locked, as long as the run lasts.

    With ``resume`` it goes on with the run in the folder, and begins one if there is none: the same
    command can be given for the first time and after any death. Raises ``UserError`` when the
    folder cannot be written, when another process is using it, or when a new run finds files in it.
    Files that this run did not write are never deleted or overwritten.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.checkpoints = OwnCheckpoints(path)
        self.trajectories = KeptTrajectories(path)
        if not (resume and has_run(path)):
            _check_unused(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / LOCK).open("a+")
        except OSError as error:
            raise UserError(f"run folder {path} cannot be written: {error.strerror}") from None
        if not locked(self._lock, f"run folder {path}"):
            self._lock.seek(0)
            holder = self._lock.read() or "another process"
            self.close()
            raise FolderInUse(
                f"run folder {path} is in use by {holder}; wait until it ends, or end it there (by"
                " kill -9 if it is frozen)"
            )
        try:
            with writing(path / LOCK):
                self._lock.truncate(0)
                self._lock.write(f"process {os.getpid()} on host {socket.gethostname()}")
                self._lock.flush()
            # Asked again, now that nobody else can begin a run here.
            self.goes_on = resume and has_run(path)
            if self.goes_on and (last := self.checkpoints.last()) is not None:
                self.checkpoints.check_room_after(last)
            for name in ("samples", "checkpoints"):
                with writing(path / name):
                    (path / name).mkdir(exist_ok=True)
            if not self.goes_on:
                self.checkpoints.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def fresh(cls, root: Path, name: str) -> Self:
        """Make and open the first of the folders ``name``, ``name-2``, ... that does not exist.

        Of two processes that do so at the same time each gets a folder of its own.
        """
        while True:
            try:
                path = made_anew(root / name)
            except OSError as error:
                raise UserError(f"root: {root} cannot be written: {error.strerror}") from None
            try:
                return cls(path)
            except FolderInUse:  # a run that was given this name was faster
                continue

    def close(self) -> None:
        """Unlock the folder, so that another process can use it."""
        self._lock.close()

    # Rows

    def append(self, name: str, row: JsonDict) -> None:
        """Add one JSON object to a ``.jsonl`` file and flush it to the disk."""
        text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        path = self.path / name
        # A fence is asked before the file is opened and once more after that. A newer driver
        # replaces the file when it begins, so what is written later goes to a file without a name.
        with writing(path), path.open("a", encoding="utf-8") as file, writing(path):
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str) -> list[JsonDict]:
        """All rows of a ``.jsonl`` file of this folder; see ``read_rows``."""
        return read_rows(self.path / name)

    def resume_point(self, rollout_alone: bool) -> tuple[int, Path | None]:
        """How many steps are done for good, and the checkpoint to go on from, if there is one.

        A run of rollout alone trains nothing and writes no checkpoint. Its steps are done when
        their rows and their trajectories are there.
        """
        checkpoint = self.checkpoints.last()
        if checkpoint is not None:
            return checkpoint_step(checkpoint), checkpoint
        if not rollout_alone:
            return 0, None
        kept = set(self.trajectories.steps())
        done = [row["step"] for row in self.rows("metrics.jsonl") if row["step"] in kept]
        return max(done, default=0), None

    def fall_back(self, step: int) -> None:
        """Delete what is of steps after ``step``, because they are run again.

        These are rows, checkpoints and kept trajectories. At step 0 the run begins anew, and all of
        them go.
        """
        last = step or -1  # the evaluation before the first step is made again
        self.checkpoints.fall_back(last)
        self.trajectories.delete_after(last)
        for name in _ROWS:
            self._replace(name, [row for row in self.rows(name) if row["step"] <= last])

    def _replace(self, name: str, rows: Iterable[JsonDict]) -> None:
        file = self.path / name
        if not file.is_file():
            return
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def check_there(folder: Path) -> None:
    """Raise ``UserError`` unless there is such a folder: the name of a run is easily mistyped."""
    if not folder.is_dir():
        raise UserError(f"run folder {folder} does not exist")


def read_rows(file: Path) -> list[JsonDict]:
    """All rows of a ``.jsonl`` file; none if the file does not exist.

    A crash can leave a last line without a newline; that line is not a row and is left out. Any
    other line that is not a strict JSON object means that the file is damaged: ``UserError`` names
    file and line.
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
    """Raise ``UserError`` when the folder of a new run is not empty.

    Files of a run that ended while it was starting are allowed: the new run writes them again.
    """
    if not path.is_dir():
        return
    # The files are listed before the lock is looked for, because a run may start in between.
    names = list(_files(path))
    # A folder without a lock was made by a user, not by a run.
    begun = (path / LOCK).is_file()
    found = next((name for name in names if not (begun and name in _OF_A_START)), None)
    if found is None:
        return
    if begun and OwnCheckpoints(path).last() is not None:
        raise UserError(
            f"run folder {path} holds a run ({found}); give --resume to go on, or --new"
        )
    raise UserError(f"run folder {path} is not empty ({found}); give --new or another name")


def _files(path: Path) -> Iterator[str]:
    """Sorted names of the files in the folder, files that are being written left out.

    ``samples/`` and ``checkpoints/`` are not named themselves, but the files in them are.
    """
    for entry in sorted(path.iterdir()):
        if is_in_part(entry.name):
            continue
        if entry.name in ("samples", "checkpoints") and entry.is_dir():
            names = (inner.name for inner in sorted(entry.iterdir()))
            yield from (f"{entry.name}/{name}" for name in names if not is_in_part(name))
        else:
            yield entry.name
