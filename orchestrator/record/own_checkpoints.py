"""The checkpoints that a run's own history wrote, and the best of them.

``checkpoints/written.json`` lists their steps. A step is listed before its folder is made and taken
off after the folder is gone, so that whatever a crash leaves is listed. A ``step-N`` folder that is
not was put there by somebody: it is never resumed from, overwritten or deleted.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from policy.disk import write_whole, writing
from policy.errors import UserError
from policy.text_files import read_json
from policy.types import JsonDict

_STEP = re.compile(r"step-[0-9]+")
WRITTEN, _BEST = "written.json", "best.json"
# What the learner writes, the manifest last; ``rng`` was written by earlier versions.
_PARTS, _MANIFEST = ("model", "adapter", "state", "rng"), "manifest.json"


class OwnCheckpoints:
    """Those of one run folder. Whoever changes them holds the folder's lock."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "checkpoints"
        self._list = self.folder / WRITTEN

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.folder / f"step-{step}"

    def start(self) -> None:
        """A new run has written nothing yet: whatever comes into the folder is somebody's."""
        self._note(set())

    def begin(self, step: int) -> Path:
        """Where to write the checkpoint of ``step``; from now on the run may delete it.

        Raises ``UserError`` when something lies there that the run did not write.
        """
        path, written = self.path(step), self._written()
        if step not in written and path.exists():
            raise UserError(f"{path} was not written by this run; move it away, then --resume")
        self._note(written | {step})
        return path

    def whole(self) -> list[Path]:
        """By step; one without its manifest was cut off and does not count."""
        return [path for path in map(self.path, sorted(self._written())) if _is_whole(path)]

    def last(self) -> Path | None:
        """The one to resume from."""
        whole = self.whole()
        return whole[-1] if whole else None

    def check_room_after(self, last: Path) -> None:
        """Raise ``UserError`` when a place that the resumed run may come to is taken."""
        written, step = self._written(), checkpoint_step(last)
        for other in self._named_so():
            if checkpoint_step(other) > step and checkpoint_step(other) not in written:
                raise UserError(
                    f"{other} was not written by this run, which goes on after {last.name};"
                    " move it away"
                )

    def resume_from(self, last: Path) -> None:
        """Delete what the run wrote after ``last`` and what it left unfinished."""
        written, step = self._written(), checkpoint_step(last)
        self._note(written)  # a run begun before there was a list has one from now on
        whole = {checkpoint_step(path) for path in self.whole()}
        self._delete({other for other in written if other > step or other not in whole})

    def keep_only(self, steps: set[int]) -> None:
        """Delete all others but the best one."""
        best = self._best()
        self._delete(self._written() - steps - (set() if best is None else {best["step"]}))

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
        write_whole(self.folder / _BEST, json.dumps(row) + "\n")
        self.keep_only({step})

    def _best(self) -> JsonDict | None:
        """The best one; one that the resumed history never reached is none."""
        best: JsonDict | None = _read(self.folder / _BEST)
        return best if best is not None and self.path(best["step"]) in self.whole() else None

    def _written(self) -> set[int]:
        steps: list[int] | None = _read(self._list)
        if steps is not None:
            return set(steps)
        # A run begun before there was a list kept its last checkpoint and its best.
        last = max(map(checkpoint_step, filter(_is_whole, self._named_so())), default=None)
        best: JsonDict = _read(self.folder / _BEST) or {"step": None}
        return {step for step in (last, best["step"]) if step is not None}

    def _named_so(self) -> list[Path]:
        """Whatever has the name of a checkpoint; step-40-backup has not."""
        return [path for path in self.folder.glob("step-*") if _STEP.fullmatch(path.name)]

    def _note(self, steps: set[int]) -> None:
        write_whole(self._list, json.dumps(sorted(steps)) + "\n")

    def _delete(self, steps: set[int]) -> None:
        for path in map(self.path, steps):
            if path.is_symlink():  # somebody moved it: what lies there is theirs now
                path.unlink()
            elif path.is_dir():
                with writing(path):
                    (path / _MANIFEST).unlink(missing_ok=True)  # deleted in part, it is not whole
                    for part in filter(Path.is_dir, map(path.joinpath, _PARTS)):
                        shutil.rmtree(part)
                    if not any(path.iterdir()):  # else somebody's files are beside them
                        path.rmdir()
        if steps:
            self._note(self._written() - {step for step in steps if not self.path(step).exists()})


def checkpoint_step(folder: Path) -> int:
    """N of a ``step-N`` folder."""
    return int(folder.name.removeprefix("step-"))


def _is_whole(path: Path) -> bool:
    return (path / _MANIFEST).is_file()


def _read(file: Path) -> Any:
    return read_json(file) if file.is_file() else None
