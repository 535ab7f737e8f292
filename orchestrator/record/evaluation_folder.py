"""The folder of one evaluation: what was asked for, the images, the scores and the result.

``evaluation.json`` says what is measured. ``images/<place>/<index>.png`` holds the images: both
numbers count from 0, and the place has five digits. ``prompts.jsonl`` lists the prompt of each
place. ``drawn.jsonl`` has one row for each prompt that is drawn, with its seeds and CoTs.
``scores/<scorer>.jsonl`` has one row for each prompt that a scorer has judged. ``result.json`` has
the values and the table's columns.

Failure policy: an image is written whole before the row that says so. A row is on the disk before
the next work begins. So whatever ends the process, the next one goes on after the last row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison import LOCATIONS
from orchestrator.record.run_folder import read_rows
from orchestrator.record.sheets import save_whole_png
from policy.disk import check_vacant, locked, write_whole, writing
from policy.errors import UserError
from policy.text_files import read_json
from policy.types import JsonDict, RewardFailure, RewardResult, Score

ASKED, PROMPTS, RESULT = "evaluation.json", "prompts.jsonl", "result.json"
_LOCK = ".lock"


class EvaluationFolder:
    """Owns the files of one evaluation. The folder stays locked until ``close``."""

    def __init__(self, path: Path, asked: JsonDict) -> None:
        """Begin an evaluation, or go on with the one that is there.

        ``asked`` says what is measured. Where a scorer's files or its server are may have changed:
        the folder says where they were when it scored last. Raises ``UserError`` when the folder
        holds something else, when what is asked for differs, or when another process uses it.
        """
        self.path, self.asked = path, asked
        self._locations: JsonDict = asked.get(LOCATIONS, {})
        if not (path / ASKED).is_file():
            _check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / _LOCK).open("a")
        except OSError as error:
            raise UserError(f"--out: {path} cannot be written: {error.strerror}") from None
        if not locked(self._lock, f"--out: {path}"):
            self.close()
            raise UserError(f"--out: {path} is in use by another process")
        if (path / ASKED).is_file():
            before: JsonDict = read_json(path / ASKED)
            _check_same(before, asked, path)
            self.asked = {**asked, LOCATIONS: before.get(LOCATIONS, {})}
        self._write_asked()
        (path / "scores").mkdir(exist_ok=True)
        _cut_half_rows(path)

    def close(self) -> None:
        """Let another process use the folder."""
        self._lock.close()

    # Images

    def image(self, place: int, index: int) -> Path:
        """The file of an image."""
        return self.path / "images" / f"{place:05d}" / f"{index:02d}.png"

    def keep_drawn(self, place: int, row: JsonDict, images: Sequence[NDArray[np.uint8]]) -> None:
        """Write the images of a prompt, and then the row that says that they are there."""
        for index, image in enumerate(images):
            save_whole_png(image, self.image(place, index))
        self._append("drawn.jsonl", {"place": place, **row})

    def drawn(self) -> set[int]:
        """The places whose images are all there."""
        return {row["place"] for row in read_rows(self.path / "drawn.jsonl")}

    def list_prompts(self, rows: Iterable[JsonDict]) -> None:
        """Write which prompt each place has."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.path / PROMPTS, text)

    # Scores

    def keep_scored(
        self, scorer: str, digest: str | None, place: int, results: Sequence[RewardResult]
    ) -> None:
        """Write what a scorer, whose weights have this digest, says of a prompt's images."""
        known = self.asked.get(LOCATIONS, {})
        if known.get(scorer) != self._locations.get(scorer):
            self.asked = {**self.asked, LOCATIONS: known | {scorer: self._locations.get(scorer)}}
            self._write_asked()
        said = [_as_row(result) for result in results]
        self._append(f"scores/{scorer}.jsonl", {"place": place, "digest": digest, "results": said})

    def digests(self, scorer: str) -> set[str]:
        """The digests of the weights that gave the scores; none for a scorer without weights."""
        rows = read_rows(self.path / "scores" / f"{scorer}.jsonl")
        return {row["digest"] for row in rows if row["digest"] is not None}

    def scored(self, scorer: str) -> dict[int, list[RewardResult]]:
        """The newest results of a scorer by place. Failures are among them."""
        rows = read_rows(self.path / "scores" / f"{scorer}.jsonl")
        return {row["place"]: [_of_row(result) for result in row["results"]] for row in rows}

    def _write_asked(self) -> None:
        text = json.dumps(self.asked, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.path / ASKED, text)

    def _append(self, name: str, row: JsonDict) -> None:
        file = self.path / name
        text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(file), file.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    # The result

    def write_result(self, result: JsonDict) -> Path:
        """Write ``result.json``; returns its path."""
        file = self.path / RESULT
        write_whole(file, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return file


def _cut_half_rows(folder: Path) -> None:
    """Cut off the half line that a crash may have left, because a new row would be joined to it."""
    for file in (*folder.glob("*.jsonl"), *(folder / "scores").glob("*.jsonl")):
        end = file.read_bytes().rfind(b"\n") + 1
        with writing(file):
            os.truncate(file, end)


def _as_row(result: RewardResult) -> JsonDict:
    if isinstance(result, RewardFailure):
        return {"failure": result.reason}
    return {"value": result.value} | ({"detail": result.detail} if result.detail else {})


def _of_row(row: JsonDict) -> RewardResult:
    if "failure" in row:
        return RewardFailure(row["failure"])
    return Score(row["value"], row.get("detail"))


def _check_new(path: Path) -> None:
    try:
        check_vacant(path)
    except UserError as error:
        raise UserError(f"--out: {error}") from None


def _check_same(before: JsonDict, now: JsonDict, path: Path) -> None:
    # The files and the judge may be elsewhere; the weights' digests are compared when scores come.
    before, now = map(_compared, (before, json.loads(json.dumps(now))))
    if key := _first_difference(before, now):
        raise UserError(
            f"--out: {path} holds an evaluation with another {key}; give another folder"
        )


def _compared(asked: JsonDict) -> JsonDict:
    """What must be the same. A library built for a GPU is the version of one built for a CPU."""
    versions = {name: v.partition("+")[0] for name, v in asked.get("versions", {}).items()}
    return {**asked, LOCATIONS: None, "versions": versions}


def _first_difference(before: JsonDict, now: JsonDict) -> str | None:
    """The key of a value that differs, such as ``seed`` or ``versions.torch``."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{key}.{_first_difference(old, new)}"
        return str(key)
    return None
