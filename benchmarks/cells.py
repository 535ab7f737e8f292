"""Training runs that make up a comparison. They are run cell by cell, and stopped and resumed.

A cell is one ``eg-grpo train`` run of ``configs/shapes.yaml`` with other settings. A finished cell
is skipped. An interrupted cell continues from its last checkpoint.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from orchestrator.record.run_folder import read_rows
from orchestrator.settings.run_config import RunConfig, load_config
from policy.disk import made_anew
from policy.types import JsonDict

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cell:
    """One run: the name of its folder, its steps, and its settings as ``key=value``."""

    name: str
    steps: int
    settings: tuple[str, ...]

    def command(self, root: Path) -> list[str]:
        """The command that starts or continues the run. ``{root}`` in a setting is ``root``."""
        resumed = list((root / self.name).glob("checkpoints/step-*/manifest.json"))
        return [
            sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml",
            *(["--resume"] if resumed else []),
            *self._overrides(root),
        ]  # fmt: skip

    def config(self, root: Path) -> RunConfig:
        """The configuration of the run."""
        return load_config(ROOT / "configs" / "shapes.yaml", self._overrides(root))

    def _overrides(self, root: Path) -> list[str]:
        return [
            f"root={root}", f"name={self.name}", f"steps={self.steps}",
            *(setting.replace("{root}", str(root)) for setting in self.settings),
        ]  # fmt: skip

    def finished(self, root: Path) -> bool:
        last = root / self.name / "checkpoints" / f"step-{self.steps}"
        return (last / "manifest.json").is_file()  # written after the last evaluation

    def evaluation(self, root: Path, name: str, scale: float, step: int | None = None) -> JsonDict:
        """The evaluation of the set ``name`` at a guidance scale after ``step``, or the last one.

        Raises ``StopIteration`` if there is none.
        """
        asked = (self.steps if step is None else step, name, scale)
        return next(
            row
            for row in read_rows(root / self.name / "evaluations.jsonl")
            if (row["step"], row["set"], row["guidance_scale"]) == asked
        )

    def last_steps(self, root: Path, key: str, count: int = 10) -> float:
        """The mean of a metric over the last ``count`` training steps."""
        rows = read_rows(root / self.name / "metrics.jsonl")
        return mean(row[key] for row in rows[-count:])


def run_cells(cells: Sequence[Cell], root: Path, jobs: int) -> int:
    """Run the unfinished cells, ``jobs`` at a time; returns how many failed."""
    root.mkdir(parents=True, exist_ok=True)
    waiting = [cell for cell in cells if not cell.finished(root)]
    print(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished", flush=True)

    def one(cell: Cell) -> int:
        folder = root / cell.name
        # A cell that died before its first checkpoint has nothing to go on from.
        if folder.exists() and "--resume" not in cell.command(root):
            folder.replace(made_anew(root / f"{cell.name}-died"))
        with (root / f"{cell.name}.log").open("w") as log:
            code = subprocess.run(
                cell.command(root), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        ending = {0: "done", 130: "stopped"}.get(code, f"failed, see {log.name}")
        print(f"{cell.name}: {ending}", flush=True)
        return code

    pool = ThreadPoolExecutor(jobs)
    try:
        return sum(code != 0 for code in pool.map(one, waiting))
    except KeyboardInterrupt:
        # The runs got the signal too and save their last step; no further cell may start.
        pool.shutdown(cancel_futures=True)
        print("stopped; the same command goes on from here")
        return 1
    finally:
        pool.shutdown()


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the interval of the mean of two or more values, by Student's t."""
    quantile = float(student.ppf(0.5 + level / 2, len(values) - 1))
    return quantile * stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and the half-width of its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    return f"{mean(values):.{digits}f} ± {half_width(values):.{digits}f}"
