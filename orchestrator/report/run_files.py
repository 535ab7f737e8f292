"""What a page reads from a run folder, at any time of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.record.run_folder import check_there, read_rows
from orchestrator.report.comparison import evaluated_sets
from policy.errors import UserError
from policy.text_files import read_json, read_text
from policy.types import JsonDict
from policy.yaml_text import parse

# Settings in which two runs of one family may differ.
_NOT_OF_A_FAMILY = ("seed", "name", "root")


@dataclass(frozen=True)
class RunFiles:
    """The rows and the settings of one run."""

    folder: Path
    label: str  # differs from that of every other run on the page
    metrics: list[JsonDict]
    sets: dict[str, list[JsonDict]]  # rows of evaluations.jsonl, see ``evaluated_sets``
    dropped: list[JsonDict]  # groups
    skipped: list[JsonDict]  # updates
    config: JsonDict  # empty without a config.yaml
    digests: dict[str, str]  # SHA-256 of each input file by its key; empty if it is not known

    @property
    def family(self) -> str:
        """Equal for two runs whose settings differ by the seed alone; "" without settings."""
        rest = {key: value for key, value in self.config.items() if key not in _NOT_OF_A_FAMILY}
        return json.dumps(rest, sort_keys=True, default=str) if rest else ""


def read_runs(folders: Sequence[Path], may_be_empty: bool = False) -> list[RunFiles]:
    """Read every folder. Raises ``UserError`` if one of them is not the folder of a run.

    A run has no rows before its first evaluation. Its folder is refused then, or with
    ``may_be_empty`` only if it holds no config.yaml either.
    """
    labels = _labels(folders)
    runs = []
    for folder, label in zip(folders, labels, strict=True):
        check_there(folder)
        metrics = read_rows(folder / "metrics.jsonl")
        evaluations = read_rows(folder / "evaluations.jsonl")
        file, inputs = folder / "config.yaml", folder / "inputs.json"
        config = parse(read_text(file), str(file)) if file.is_file() else None
        if not (metrics or evaluations or (may_be_empty and config)):
            raise UserError(f"{folder} holds no run: no row in metrics.jsonl or evaluations.jsonl")
        runs.append(
            RunFiles(
                folder=folder,
                label=label,
                metrics=metrics,
                sets=evaluated_sets(evaluations),
                dropped=read_rows(folder / "dropped.jsonl"),
                skipped=read_rows(folder / "skipped.jsonl"),
                config=config or {},
                digests=read_json(inputs) if inputs.is_file() else {},
            )
        )
    return runs


def _labels(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, each with as many of its parents as make it differ."""
    paths = [folder.resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError("a run folder is given twice")
    names = []
    for path in paths:
        depth = 1
        while sum(other[-depth:] == path[-depth:] for other in paths) > 1:
            depth += 1
        names.append("/".join(path[-depth:]))
    return names
