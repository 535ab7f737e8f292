"""Keeps the results of all parts in one file, which is complete at any moment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu_check.task import Measure

FILE = "results.json"
DONE = "done"
Stamp = dict[str, str]


@dataclass
class PartResult:
    """A part's figures so far, and on what they were taken."""

    stamp: Stamp  # card and versions
    date: str
    status: str = "running"  # or done, or why it ended before its end
    seconds: float = 0.0
    measures: list[Measure] = field(default_factory=list)


class Results:
    """All parts by name, as ``results.json`` of a folder holds them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self.parts: dict[str, PartResult] = {}
        if self._file.is_file():
            self.parts = read(self._file)

    def is_done(self, part: str, stamp: Stamp) -> bool:
        """Whether the part went to its end on this card with these versions."""
        known = self.parts.get(part)
        return known is not None and known.status == DONE and known.stamp == stamp

    def write(self) -> None:
        """Replace the file at once: who reads it, or comes after a crash, finds a whole one."""
        whole = {name: asdict(result) for name, result in self.parts.items()}
        being_written = self._file.with_suffix(".new")
        being_written.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(being_written, self._file)


def read(file: Path) -> dict[str, PartResult]:
    """The parts that ``Results.write`` wrote."""
    return {
        name: PartResult(**part | {"measures": [Measure(**one) for one in part["measures"]]})
        for name, part in json.loads(file.read_text(encoding="utf-8")).items()
    }
