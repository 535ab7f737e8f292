"""The checkpoints that this run wrote, which of them is the best, and which ones are kept.

These are the last one, the best one, and the one from which the kept trajectories can be replayed.

``checkpoints/written.json`` lists the steps of these checkpoints. A step enters the list before its
folder is there and leaves the list after its folder is deleted. A folder that a crash leaves behind
is therefore always listed. A ``step-N`` folder that is not listed belongs to somebody else: the run
never resumes from it, overwrites it or deletes it.

A checkpoint is written to a hidden folder, ``.step-N.NUMBER``, and gets its name when it is whole.
The number is drawn at random. So learner ranks whose driver has lost the run to a newer driver, and
which still write, never write to a folder of the newer one.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from orchestrator.record.kept_trajectories import KeptTrajectories
from policy.disk import is_in_part, sync, write_whole, writing
from policy.errors import UserError
from policy.text_files import read_json
from policy.types import JsonDict

_STEP = re.compile(r"step-[0-9]+")
WRITTEN, _BEST = "written.json", "best.json"
# What the learner writes, the manifest last; ``rng`` was written by earlier versions.
_PARTS, _MANIFEST = ("model", "adapter", "state", "rng"), "manifest.json"


class OwnCheckpoints:
    """The checkpoints of one run folder. Only the process that holds the folder's lock changes
    them."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "checkpoints"
        self._trajectories = KeptTrajectories(run_folder)
        self._list = self.folder / WRITTEN

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of ``step``, whether it exists or not."""
        return self.folder / f"step-{step}"

    def start(self) -> None:
        """Write an empty list: a new run has no checkpoint, and only listed folders are its own."""
        self._note(set())

    def begin(self, step: int) -> Path:
        """A folder of its own to write the checkpoint of ``step`` to; it does not exist yet.

        Raises ``UserError`` when ``step-N`` exists and the run did not write it.
        """
        path = self._free(step)
        return path.with_name(f".{path.name}.{secrets.randbelow(10**9)}")

    def finish(self, step: int, written: Path) -> Path:
        """Name the whole checkpoint ``step-N``: it counts from now on. Returns the new path.

        ``written`` is the folder that ``begin`` returned. The new name is on the disk at the
        return. Raises ``UserError`` as ``begin`` does.
        """
        path = self._free(step)
        self._note(self._written() | {step})
        with writing(path):
            written.rename(path)
            sync(self.folder)
        return path

    def whole(self) -> list[Path]:
        """The whole checkpoints in order of steps. One without a manifest was cut off: left out."""
        return [path for path in map(self.path, sorted(self._written())) if _is_whole(path)]

    def last(self) -> Path | None:
        """The checkpoint to resume from: the newest whole one; None without any."""
        whole = self.whole()
        return whole[-1] if whole else None

    def before_kept(self) -> Path | None:
        """The first whole checkpoint after which every step is kept, and at least one is.

        None if there is no such checkpoint. If the kept steps begin with the first one, a replay
        begins with the run's first model and needs no checkpoint: None too.
        """
        kept = self._trajectories.steps()
        if not kept or kept[0] == 1:
            return None
        found = (path for path in self.whole() if kept[0] - 1 <= checkpoint_step(path) < kept[-1])
        return next(found, None)

    def check_room_after(self, last: Path) -> None:
        """Raise ``UserError`` when a later step's folder exists that this run did not write."""
        written, step = self._written(), checkpoint_step(last)
        for other in self._named_so():
            if checkpoint_step(other) > step and checkpoint_step(other) not in written:
                raise UserError(
                    f"{other} was not written by this run, which goes on after {last.name};"
                    " move it away"
                )

    def fall_back(self, step: int) -> None:
        """Delete the run's checkpoints that are newer than ``step`` or not whole."""
        for path in self.folder.glob(".step-*"):
            if is_in_part(path.name):
                with writing(path):  # ranks of an older driver may still write there
                    shutil.rmtree(path, ignore_errors=True)
        written = self._written()
        self._note(written)  # runs of older versions have no list
        whole = {checkpoint_step(path) for path in self.whole()}
        self._delete({other for other in written if other > step or other not in whole})

    def keep_only(self, steps: set[int]) -> None:
        """Delete the run's checkpoints except those of ``steps``, the best one, and the one from
        which the kept trajectories can be replayed."""
        best, replayed = self._best(), self.before_kept()
        spared = set() if best is None else {best["step"]}
        if replayed is not None:
            spared.add(checkpoint_step(replayed))
        self._delete(self._written() - steps - spared)

    def is_better(self, evaluation_set: str, reward: float | None) -> bool:
        """Whether ``reward`` is higher than that of the best checkpoint on the same fixed set."""
        best = self._best()
        if reward is None:
            return False
        return best is None or best["set"] != evaluation_set or reward > best["reward/mean"]

    def note_best(self, evaluation_set: str, step: int, reward: float | None) -> None:
        """Record the checkpoint of ``step``, which is already written, if it is the best so far."""
        if not self.is_better(evaluation_set, reward):
            return
        row = {"step": step, "set": evaluation_set, "reward/mean": reward}
        write_whole(self.folder / _BEST, json.dumps(row) + "\n")
        self.keep_only({step})

    def _best(self) -> JsonDict | None:
        """Step, set and reward of the best checkpoint; None without one, or if it was deleted.

        A run that resumes from an earlier step deletes the checkpoints after that step.
        """
        best: JsonDict | None = _read(self.folder / _BEST)
        return best if best is not None and self.path(best["step"]) in self.whole() else None

    def _written(self) -> set[int]:
        steps: list[int] | None = _read(self._list)
        if steps is not None:
            return set(steps)
        # Runs of older versions have no list. They kept the last checkpoint and the best one.
        last = max(map(checkpoint_step, filter(_is_whole, self._named_so())), default=None)
        best: JsonDict = _read(self.folder / _BEST) or {"step": None}
        return {step for step in (last, best["step"]) if step is not None}

    def _free(self, step: int) -> Path:
        """The path of ``step``, which is free, or else holds a checkpoint that the run wrote."""
        path = self.path(step)
        if step not in self._written() and path.exists():
            raise UserError(f"{path} was not written by this run; move it away, then --resume")
        return path

    def _named_so(self) -> list[Path]:
        """All files and folders named like a checkpoint; step-40-backup is not."""
        return [path for path in self.folder.glob("step-*") if _STEP.fullmatch(path.name)]

    def _note(self, steps: set[int]) -> None:
        write_whole(self._list, json.dumps(sorted(steps)) + "\n")

    def _delete(self, steps: set[int]) -> None:
        for path in map(self.path, steps):
            if path.is_symlink():  # a user moved the checkpoint and left a link: only the link goes
                path.unlink()
            elif path.is_dir():
                with writing(path):
                    # The manifest goes first: a checkpoint that is deleted in part is not whole.
                    (path / _MANIFEST).unlink(missing_ok=True)
                    for part in filter(Path.is_dir, map(path.joinpath, _PARTS)):
                        shutil.rmtree(part)
                    if not any(path.iterdir()):  # files that the run did not write stay
                        path.rmdir()
        if steps:
            self._note(self._written() - steps)


def checkpoint_step(folder: Path) -> int:
    """The number N in the name of a ``step-N`` folder."""
    return int(folder.name.removeprefix("step-"))


def _is_whole(path: Path) -> bool:
    return (path / _MANIFEST).is_file()


def _read(file: Path) -> Any:
    return read_json(file) if file.is_file() else None
