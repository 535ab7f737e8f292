"""EG-GRPO against GRPO and its ablations in the shapes world, cell by cell.

    python -m benchmarks.ablation run --jobs 2     # can be stopped and started again at any time
    python -m benchmarks.ablation table            # writes docs/ablation.md from the finished cells

A cell is one `eg-grpo train` run with one method, guidance scale and seed. A finished cell is
skipped. An interrupted cell continues from its last checkpoint. All methods of one seed share
prompts, noise and fixed evaluations, so that they can be compared in pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import date
from pathlib import Path

from benchmarks.cells import ROOT, Cell, interval, run_cells
from evaluation.summary import paired_difference

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


def cell(method: str, guidance: float, seed: int) -> Cell:
    name = "".join(c if c.isalnum() else "-" for c in method.lower()).strip("-")
    return Cell(
        f"{name}-w{guidance:g}-s{seed}",
        STEPS[guidance],
        (
            f"seed={seed}",
            f"rollout.guidance_scale={guidance}",
            "rollout.workers=1",
            "evaluation.every=1000",
            "evaluation.prompts=64",
            f"evaluation.guidance_scales={sorted({1.0, guidance})}",
            *METHODS[method],
        ),
    )


def cells() -> list[Cell]:
    """Seed by seed, so that a stopped run has whole comparisons."""
    return [
        cell(method, guidance, seed)
        for seed in SEEDS
        for guidance, methods in COMPARED.items()
        for method in methods
    ]


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
            lines.append(f"| {' | '.join(_row(root, method, guidance, scales))} |")
        every = [cell(method, guidance, seed) for seed in SEEDS for method in methods]
        before = next((found for found in every if found.finished(root)), None)
        if before is not None:
            values = ", ".join(
                f"{name} {before.evaluation(root, name, guidance, 0)['reward/mean']:.3f}"
                for name in ("seen", "held_out")
            )
            lines += ["", f"Before training, evaluated at w = {guidance:g}: {values}."]
    return "\n".join(lines) + "\n"


def _row(root: Path, method: str, guidance: float, scales: list[float]) -> list[str]:
    done = [s for s in SEEDS if cell(method, guidance, s).finished(root)]
    ours = [cell(method, guidance, seed) for seed in done]

    def values(name: str, scale: float, key: str = "reward/mean") -> list[float]:
        return [found.evaluation(root, name, scale)[key] for found in ours]

    against = []
    for found, seed in zip(ours, done, strict=True):
        base = cell("GRPO", guidance, seed)
        if method != "GRPO" and base.finished(root):
            after, before = (
                one.evaluation(root, "seen", guidance)["prompt_means"] for one in (found, base)
            )
            against.append(paired_difference(before, after)[0].mean)
    return [
        method,
        str(len(done)),
        *(interval(values("seen", scale)) for scale in scales),
        interval(values("seen", guidance, "detail/structure/strict")),
        interval(values("held_out", guidance)),
        interval([found.last_steps(root, "kl/mean") for found in ours]),
        interval([found.last_steps(root, "entropy/image/mean") for found in ours]),
        interval(against),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--root", type=Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once (default 2)")
    parsed = parser.parse_args()
    if parsed.what == "run":
        return 1 if run_cells(cells(), parsed.root.absolute(), parsed.jobs) else 0
    text = table(parsed.root)
    (ROOT / "docs" / "ablation.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
