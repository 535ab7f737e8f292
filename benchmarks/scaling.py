"""A real run whose rollout workers go from 1 to 3 and to 2 while it runs, and a picture of it.

    python -m benchmarks.scaling --out DIR [--sleep 5 --steps 24 --picture docs/scaling.png]

The run is ``configs/shapes.yaml`` with six batches a step. Everything in it is real, and so is
``eg-grpo scale`` in a process of its own. One thing is added: a rollout worker sleeps for some
seconds with each batch that it samples (``benchmarks/sleeping_workers.py``). ``--draw`` draws a run
that is there already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sleeping_workers import COMMAND, ROOT, environment
from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.pipeline.ledger_view import DONE, ScalingEntry
from orchestrator.record.run_folder import read_rows
from policy.types import JsonDict

WORKERS = (1, 3, 2)
SETTINGS = (
    "name=scaling prompts_per_step=12 rollout.workers=1 rollout.max_workers=3 rollout.batch_size=16"
    " evaluation.prompts=2 evaluation.samples_per_prompt=1 learner.warmup_steps=1"
).split()
IMAGES = 12 * 8  # in a step
_EVERY_S = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sleep", type=float, default=5.0, help="seconds with each batch")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--picture", type=Path, default=Path("docs/scaling.png"))
    parser.add_argument("--draw", action="store_true", help="draw the run that is in DIR")
    options = parser.parse_args()
    folder = options.out / "scaling"
    if not options.draw:
        _run(options, folder)
    rows = read_rows(folder / "metrics.jsonl")
    wishes = [wish for wish in read_run(folder).scaling if wish.answer == DONE]
    _draw(rows, wishes, options.sleep, options.picture)
    for count in WORKERS:
        speeds = [_speed(row) for row in rows if row["workers/rollout"] == count]
        # The first step of each number of workers is sampled by two numbers of them.
        mean = sum(speeds[1:]) / max(1, len(speeds) - 1)
        print(f"{count} rollout workers: {mean:.1f} images a second over {len(speeds) - 1} steps")
    for wish in wishes:
        print(f"{dict(wish.wanted)}: done after {wish.answered - wish.asked:.0f} s")
    return 0


def _run(options: argparse.Namespace, folder: Path) -> None:
    run = subprocess.Popen(
        [
            *(
                *COMMAND,
                "train",
                "configs/shapes.yaml",
                f"root={options.out.absolute()}",
                *SETTINGS,
            ),
            *(f"steps={options.steps}", f"evaluation.every={options.steps}"),
        ],
        cwd=ROOT,
        env=environment(rollout=options.sleep),
    )
    try:
        for number, count in enumerate(WORKERS[1:], start=1):
            after = number * options.steps // len(WORKERS)
            while len(read_rows(folder / "metrics.jsonl")) < after:
                if run.poll() is not None:
                    raise SystemExit(f"the run ended with exit code {run.returncode}")
                time.sleep(_EVERY_S)
            scale = [sys.executable, "-m", "orchestrator", "scale", str(folder), f"rollout={count}"]
            subprocess.run(scale, check=True)
        if run.wait():
            raise SystemExit(f"the run ended with exit code {run.returncode}")
    finally:
        run.terminate()


def _speed(row: JsonDict) -> float:
    """Images a second of a step without its evaluation."""
    seconds: float = row["seconds/step"] - row.get("seconds/evaluate", 0.0)
    return IMAGES / seconds


def _draw(
    rows: Sequence[JsonDict], wishes: Sequence[ScalingEntry], sleep_s: float, file: Path
) -> None:
    from matplotlib.figure import Figure

    start = rows[0]["time"] - rows[0]["seconds/step"]
    minutes = [(row["time"] - start) / 60 for row in rows]
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    speed = figure.subplots()
    speed.plot(minutes, [_speed(row) for row in rows], marker="o", ms=3.5, lw=1.4, color="#2f66b0")
    speed.set_ylim(bottom=0)
    speed.set_xlabel("minutes since the first step began")
    speed.set_ylabel("images a second, step by step", color="#2f66b0")
    workers = speed.twinx()
    workers.step(minutes, [row["workers/rollout"] for row in rows], where="post", color="#d9822b")
    workers.set_ylim(0, max(WORKERS) + 1)
    workers.set_yticks(range(max(WORKERS) + 1))
    workers.set_ylabel("rollout workers at the end of the step", color="#d9822b")
    for wish in wishes:
        asked, done = ((at - start) / 60 for at in (wish.asked, wish.answered))
        speed.axvspan(asked, done, color="#8d96a0", alpha=0.25, lw=0)
        text = f"eg-grpo scale rollout={wish.wanted['rollout']}"
        speed.annotate(text, (asked, 0), rotation=90, fontsize=8, ha="right", va="bottom")
    figure.suptitle(
        f"A run of shapes on {os.cpu_count()} cores while it is scaled. Each batch of a rollout"
        f" worker\nalso sleeps {sleep_s:g} s, which stands for a GPU of its own. Grey: from wish"
        " to done.",
        fontsize=10,
    )
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
