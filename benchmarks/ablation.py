"""EG-GRPO against GRPO and its ablations in the shapes world, cell by cell.

    python -m benchmarks.ablation run --jobs 2     # can be stopped and started again at any time
    python -m benchmarks.ablation table            # writes docs/ablation.md from the finished cells

A cell is one `eg-grpo train` run with one method, guidance scale and seed. A finished cell is
skipped. An interrupted cell continues from its last checkpoint. All methods of one seed share
prompts, noise and fixed evaluations, so that they can be compared in pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from evaluation.summary import paired_difference
from policy.disk import made_anew

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
STEPS = {1.0: 50, 2.0: 25}  # with guidance 2 the methods separate within 20 steps
METHODS = {
    "GRPO": ("algorithm.modalities=none",),
    "EG-GRPO (as-code)": ("base=configs/presets/as-code.yaml",),
    "EG-GRPO (as-paper)": ("base=configs/presets/as-paper.yaml",),
    "only-cot": ("algorithm.modalities=cot",),
    "only-image": ("algorithm.modalities=image",),
    "low mask alone": ("algorithm.bonus=none",),
}
COMPARED = {
    1.0: ("GRPO", "EG-GRPO (as-code)", "EG-GRPO (as-paper)", "only-cot", "only-image"),
    2.0: ("GRPO", "EG-GRPO (as-code)", "low mask alone"),
}


@dataclass(frozen=True)
class Cell:
    method: str
    guidance: float
    seed: int

    @property
    def name(self) -> str:
        method = "".join(c if c.isalnum() else "-" for c in self.method.lower()).strip("-")
        return f"{method}-w{self.guidance:g}-s{self.seed}"

    def command(self, root: Path) -> list[str]:
        resume = (
            ["--resume"]
            if list((root / self.name).glob("checkpoints/step-*/manifest.json"))
            else []
        )
        return [
            sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml", *resume,
            f"root={root}", f"name={self.name}", f"seed={self.seed}",
            f"steps={STEPS[self.guidance]}", f"rollout.guidance_scale={self.guidance}",
            "rollout.workers=1", "evaluation.every=1000", "evaluation.prompts=64",
            f"evaluation.guidance_scales={sorted({1.0, self.guidance})}",
            *METHODS[self.method],
        ]  # fmt: skip

    def evaluations(self, root: Path) -> list[dict]:
        file = root / self.name / "evaluations.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def finished(self, root: Path) -> bool:
        last = root / self.name / "checkpoints" / f"step-{STEPS[self.guidance]}"
        return (last / "manifest.json").is_file()  # written after the last evaluation


def cells() -> list[Cell]:
    """Seed by seed, so that a stopped run has whole comparisons."""
    return [
        Cell(method, guidance, seed)
        for seed in SEEDS
        for guidance, methods in COMPARED.items()
        for method in methods
    ]


def run(root: Path, jobs: int) -> int:
    """Run the unfinished cells, ``jobs`` at a time; returns how many failed."""
    root.mkdir(parents=True, exist_ok=True)
    waiting = [cell for cell in cells() if not cell.finished(root)]
    print(f"{len(cells()) - len(waiting)} of {len(cells())} cells are finished")

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


def interval(values: list[float]) -> str:
    """Mean and the half-width of its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.3f} ± {half:.3f}"


def table(root: Path) -> str:
    """The finished cells as Markdown: one table for each guidance scale."""
    lines = [
        "# EG-GRPO and its ablations in the shapes world",
        "",
        "`python -m benchmarks.ablation run --jobs 2`, then `python -m benchmarks.ablation table`.",
        f"Machine: {platform.machine()}, CPU only, {os.cpu_count()} cores."
        f" Table of {date.today()}.",
        "Fixed evaluation after training, 64 prompts x 4 samples a set; reward is the weighted",
        "total. Values are means over seeds ± the half-width of the 95 % interval (Student's t).",
        "Strict is the share of samples of the seen set that the attributes and the structure",
        "reward both give 1 (all is there as asked, and nothing else); it, held-out and the last",
        "column are evaluated at the guidance trained with. KL and image entropy are means over",
        "the last ten training steps.",
        "The last column pairs each method with GRPO of the same seed, prompt by prompt.",
    ]
    for guidance, methods in COMPARED.items():
        scales = sorted({1.0, guidance})
        lines += ["", f"## Trained at guidance {guidance:g}, {STEPS[guidance]} steps", ""]
        header = ["method", "seeds", *(f"seen, evaluated at w = {w:g}" for w in scales),
                  "seen, strict", "held-out", "KL", "image entropy", "seen minus GRPO"]  # fmt: skip
        lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for method in methods:
            done = [c for seed in SEEDS if (c := Cell(method, guidance, seed)).finished(root)]
            lines.append(f"| {' | '.join(_row(root, method, done, guidance, scales))} |")
        before = next((c for c in cells() if c.guidance == guidance and c.finished(root)), None)
        if before is not None:
            values = ", ".join(
                f"{name} {_final(before, root, name, guidance, 0)['reward/mean']:.3f}"
                for name in ("seen", "held_out")
            )
            lines += ["", f"Before training, evaluated at w = {guidance:g}: {values}."]
    return "\n".join(lines) + "\n"


def _final(cell: Cell, root: Path, name: str, scale: float, step: int | None = None) -> dict:
    step = STEPS[cell.guidance] if step is None else step
    return next(
        row
        for row in cell.evaluations(root)
        if (row["step"], row["set"], row["guidance_scale"]) == (step, name, scale)
    )


def _row(
    root: Path, method: str, done: list[Cell], guidance: float, scales: list[float]
) -> list[str]:
    def values(name: str, scale: float, key: str = "reward/mean") -> list[float]:
        return [_final(cell, root, name, scale)[key] for cell in done]

    last = [_tail(cell, root) for cell in done]
    against = []
    for cell in done:
        base = Cell("GRPO", guidance, cell.seed)
        if method != "GRPO" and base.finished(root):
            ours, theirs = (_final(c, root, "seen", guidance)["prompt_means"] for c in (cell, base))
            against.append(paired_difference(theirs, ours)[0].mean)
    return [
        method,
        str(len(done)),
        *(interval(values("seen", scale)) for scale in scales),
        interval(values("seen", guidance, "detail/structure/strict")),
        interval(values("held_out", guidance)),
        interval([row["kl/mean"] for row in last]),
        interval([row["entropy/image/mean"] for row in last]),
        interval(against),
    ]


def _tail(cell: Cell, root: Path) -> dict[str, float]:
    """Means over the last ten training steps."""
    rows = [json.loads(x) for x in (root / cell.name / "metrics.jsonl").read_text().splitlines()]
    return {key: mean(row[key] for row in rows[-10:]) for key in ("kl/mean", "entropy/image/mean")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--root", type=Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once (default 2)")
    parsed = parser.parse_args()
    if parsed.what == "run":
        return 1 if run(parsed.root.absolute(), parsed.jobs) else 0
    text = table(parsed.root)
    (ROOT / "docs" / "ablation.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
