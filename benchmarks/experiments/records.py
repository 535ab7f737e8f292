"""The numbers of finished runs, which the repository keeps: ``docs/experiments/results``.

A machine may be gone before all registered runs are done. So each finished run leaves one line of
JSON in the file of its arm. The first line of a file says how the runs of the arm are made: all
settings that affect the numbers, and digests of the input files. It is compared with what the code
would do now, and every other line carries its digest. So runs with different settings or inputs
cannot come into one file. Versions of packages are compared when a study is reported.

Recorded is not reported: the tables show a study only when all of its runs are there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.cells import ROOT
from benchmarks.experiments.arms import WORLDS, Arm, write_one_task
from benchmarks.experiments.distil import SETTINGS as DISTILLATION
from orchestrator.record.run_folder import read_rows
from orchestrator.settings.unchanged import counts, input_files, settings_that_count
from policy.digest import sha256
from policy.disk import write_whole
from policy.errors import UserError
from policy.types import JsonDict

# To be counted up when the code computes other numbers from the same settings.
CODE = 2
# The seed is in each line. The checkpoint and the prompts are compared by their digests.
_ELSEWHERE = ("seed", "model.path", "data.train", "data.evaluation")


class Records:
    """The finished runs of all arms in one folder."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """``scratch`` is the root of the runs, for files that are made for them."""
        self.folder, self._scratch = folder, scratch
        self._runs: dict[str, dict[int, JsonDict]] = {}

    def runs(self, arm: Arm) -> dict[int, JsonDict]:
        """The finished runs of an arm by their seeds.

        Raises ``UserError`` with file and line when they were made in another way than the code
        would make them now, or when a line is damaged.
        """
        if arm.name not in self._runs:
            self._runs[arm.name] = self._read(arm)
        return self._runs[arm.name]

    def add(self, arm: Arm, seed: int, run: JsonDict) -> None:
        """Write a finished run into the file of its arm. A run that is there already stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            runs, file = self._read(arm), self._file(arm)
            head = read_rows(file)[0] if runs else protocol(arm, self._scratch)
            runs.setdefault(seed, {"seed": seed, "protocol": _digest(head)} | run)
            lines = [head, *(runs[known] for known in sorted(runs))]
            write_whole(file, "".join(json.dumps(line) + "\n" for line in lines))
            self._runs[arm.name] = runs

    def _file(self, arm: Arm) -> Path:
        return self.folder / f"{arm.name}.jsonl"

    def _read(self, arm: Arm) -> dict[int, JsonDict]:
        file = self._file(arm)
        if not file.is_file():
            return {}
        rows = read_rows(file)
        if not rows or not file.read_bytes().endswith(b"\n"):
            raise UserError(f"{file}:{len(rows) + 1}: the last line is cut off")
        head, *lines = rows
        if problem := _difference(head, arm, self._scratch):
            raise UserError(f"{file}:1: {problem}")
        runs: dict[int, JsonDict] = {}
        for number, line in enumerate(lines, start=2):
            if line.get("protocol") != _digest(head):
                raise UserError(f"{file}:{number}: the run was not made as line 1 says")
            if line["seed"] in runs:
                raise UserError(f"{file}:{number}: seed {line['seed']} is there twice")
            runs[line["seed"]] = line
        return runs


def protocol(arm: Arm, scratch: Path) -> JsonDict:
    """All that decides the numbers of an arm's runs, but for the seed and rounding."""
    settings, _, inputs = _present(arm, scratch)
    return {"arm": arm.name, "code": CODE, "settings": settings, "inputs": inputs}


def _difference(recorded: JsonDict, arm: Arm, scratch: Path) -> str | None:
    """How runs that were recorded differ from those that the code would make now, in one line.

    A setting that is new since then counts as if it had had its default. One that is known since
    then to change no result is left out.
    """
    settings, given, inputs = _present(arm, scratch)
    for what, was, now in (
        ("arm", {"arm": recorded.get("arm")}, {"arm": arm.name}),
        ("version of the code", {"code": recorded.get("code")}, {"code": CODE}),
        ("setting", recorded.get("settings", {}), settings),
        ("digest of input", recorded.get("inputs", {}), inputs),
    ):
        for key in sorted(was.keys() | now.keys()):
            if key not in was and what == "setting" and key not in given:
                continue
            if what == "setting" and not counts(key):
                continue
            if was.get(key) != now.get(key):
                return (
                    f"{what} {key} was {was.get(key)!r}, now it is {now.get(key)!r}: these runs"
                    " cannot be mixed with new ones"
                )
    return None


def _present(arm: Arm, scratch: Path) -> tuple[JsonDict, set[str], dict[str, str]]:
    """The settings of an arm, those of them that are given, and the digests of its input files."""
    write_one_task(scratch)
    config = arm.cell(0).config(scratch)
    settings, given = (
        {
            key: value
            for key, value in settings_that_count(config, given_alone).items()
            if not any(key == other or key.startswith(f"{other}.") for other in _ELSEWHERE)
        }
        for given_alone in (False, True)
    )
    settings["steps"] = arm.steps
    if arm.distilled:
        distillation = {f"distillation.{key}": value for key, value in DISTILLATION.items()}
        settings, given = settings | distillation, given | distillation
    inputs = {key: sha256(file) for key, file in input_files(config).items()}
    # Distillation is a part of the run: what went in is the checkpoint of the world.
    inputs["model"] = _checkpoint_digest(ROOT / WORLDS[arm.world])
    return settings, {*given, "steps"}, inputs


@cache
def _checkpoint_digest(folder: Path) -> str:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    return _digest({file.name: sha256(file) for file in files})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process writes there. It takes milliseconds, and a dead one lets go."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
