"""The trajectories that a run keeps: one folder for each of its last steps.

``trajectories/step-000123/`` holds ``group-000.safetensors`` and so on, one file for each group
that the step trained on, in the order of the batch (see ``policy.trajectory_files``). Its
``step.json`` has the scores, the advantages and the SHA-256 of each of these files. That file is
written last and deleted first: a folder without it is not whole, and is never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from policy.disk import is_in_part, write_whole, writing
from policy.errors import UserError
from policy.text_files import read_json
from rewards.scored_group import ScoredGroup

_RECORD = "step.json"
_STEP = re.compile(r"step-[0-9]{6,}")
_GROUP = re.compile(r"group-[0-9]{3,}\.safetensors")


@dataclass(frozen=True)
class KeptGroup:
    """One group that a step trained on: its file, and the numbers that the run computed from it."""

    file: str  # name inside the folder of the step
    sha256: str
    advantages: tuple[float | None, ...]
    scored: ScoredGroup


@dataclass(frozen=True)
class KeptStep:
    """The contents of ``step.json``. ``step`` counts from 1, as in the rows of metrics."""

    step: int
    groups: tuple[KeptGroup, ...]
    # Groups that the step dropped because too few of their trajectories were scored.
    dropped: tuple[ScoredGroup, ...]
    format: Literal[1] = 1


_KEPT_STEP = TypeAdapter(KeptStep)


class KeptTrajectories:
    """The kept steps of one run folder. Only the process that holds the folder's lock changes
    them."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "trajectories"

    def path(self, step: int) -> Path:
        """The folder of ``step``, whether it exists or not."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """The steps that are whole, in order."""
        return sorted(_number(path) for path in self._named_so() if (path / _RECORD).is_file())

    def begin(self, step: int, groups: int) -> list[Path]:
        """Make the folder of ``step``, and return the files to write its groups to.

        What an earlier attempt at this step wrote is deleted.
        """
        path = self.path(step)
        _delete(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return [path / f"group-{place:03d}.safetensors" for place in range(groups)]

    def finish(self, kept: KeptStep) -> None:
        """Write ``step.json``: the step, whose groups are on the disk, is whole from now on."""
        tree = _KEPT_STEP.dump_python(kept, mode="json")
        write_whole(self.path(kept.step) / _RECORD, json.dumps(tree, allow_nan=False) + "\n")

    def read(self, step: int) -> KeptStep:
        """The numbers of a kept step. Raises ``UserError`` when the file is missing or damaged."""
        file = self.path(step) / _RECORD
        try:
            kept = _KEPT_STEP.validate_python(read_json(file))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise UserError(f"{file} is damaged: {where}: {error.errors()[0]['msg']}") from None
        if kept.step != step:
            raise UserError(f"{file} is damaged: it is of step {kept.step}")
        return kept

    def delete_until(self, step: int) -> None:
        """Delete ``step`` and all steps before it."""
        self._delete_if(lambda other: other <= step)

    def delete_after(self, step: int) -> None:
        """Delete all steps after ``step``: the run goes on from there and makes them again."""
        self._delete_if(lambda other: other > step)

    def _delete_if(self, unwanted: Callable[[int], bool]) -> None:
        for path in self._named_so():
            if unwanted(_number(path)):
                _delete(path)

    def _named_so(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if _STEP.fullmatch(path.name)]


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _delete(path: Path) -> None:
    """Delete the files that a run writes into the folder of a step, and then the folder.

    A file of the user stays, and so does its folder.
    """
    if not path.is_dir():
        return
    with writing(path):
        (path / _RECORD).unlink(missing_ok=True)
        for file in list(path.iterdir()):
            if _GROUP.fullmatch(file.name) or is_in_part(file.name):
                file.unlink()
        if not any(path.iterdir()):
            path.rmdir()
