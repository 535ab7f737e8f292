"""The command line of ``benchmarks.experiments``, which the package describes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from benchmarks.cells import ROOT, run_cells
from benchmarks.experiments.arms import DISTILLED, ONE_TASK, TRAINED_TASK, WORLDS
from benchmarks.experiments.figure import draw
from benchmarks.experiments.results import markdown, status, table
from benchmarks.experiments.studies import STUDIES
from policy.digest import sha256
from policy.disk import write_whole

DOCS = ROOT / "docs" / "experiments"
TRAINING_PROMPTS = ROOT / "shapes" / "data" / "train.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 only if no run failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = {"run": _run, "status": _status, "table": _table, "figure": _figure}
    for name, run in (runs | {"gradient": _gradient}).items():
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--root", type=Path, default=ROOT / "runs" / "experiments")
        if name == "run":
            command.add_argument("studies", nargs="*", metavar="STUDY", help="default: all")
            command.add_argument("--jobs", type=int, default=1, help="cells at once (default: 1)")
        if name == "gradient":
            command.add_argument("--batches", type=int, default=16, help="of 128 images (16)")
            command.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    options = parser.parse_args(arguments)
    run = options.run
    return run(options)


def _run(options: argparse.Namespace) -> int:
    chosen = [study for study in STUDIES if not options.studies or study.name in options.studies]
    unknown = set(options.studies) - {study.name for study in STUDIES}
    if unknown:
        print(f"no study is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    root = options.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    _write_one_task(root / ONE_TASK)
    for seed in [seed for study in chosen if study.name == "recipes" for seed in study.seeds]:
        if not (output := root / DISTILLED.format(seed=seed)).exists():
            _distil(output, seed)
    cells = {cell.name: cell for study in chosen for cell in study.cells()}
    return 1 if run_cells(list(cells.values()), root, options.jobs) else 0


def _write_one_task(file: Path) -> None:
    """The training prompts of one task, for the study of what training on them alone forgets."""
    lines = TRAINING_PROMPTS.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["task_type"] == TRAINED_TASK]
    file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _distil(output: Path, seed: int) -> None:
    """The checkpoint with distilled guidance; a broken attempt leaves nothing behind."""
    from policy.runtime import tune_process

    tune_process()
    from benchmarks.experiments.distil import STEPS, distil
    from shapes.build.progress import progress

    unfinished = output.with_name(f"{output.name}.unfinished")
    report = progress(f"distillation, seed {seed}", STEPS)
    distil(ROOT / WORLDS["mixed"], TRAINING_PROMPTS, unfinished, seed, report)
    unfinished.replace(output)


def _status(options: argparse.Namespace) -> int:
    print(status(options.root))
    return 0


def _table(options: argparse.Namespace) -> int:
    text = table(options.root)
    (DOCS / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _figure(options: argparse.Namespace) -> int:
    for file in draw(options.root, DOCS):
        print(file)
    return 0


def _gradient(options: argparse.Namespace) -> int:
    options.root.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_gradient_page(options.root, options.batches, options.guidance)) + "\n"
    (DOCS / "gradient.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _gradient_page(root: Path, batches: int, scales: list[float]) -> Iterator[str]:
    """The page's parts. A table that an earlier call has left in ``root`` is not measured again."""
    from policy.runtime import tune_process

    tune_process()
    from benchmarks.experiments.gradient import COLUMNS, Meter, page_head, rows

    yield page_head(
        batches,
        f"python -m benchmarks.experiments gradient --batches {batches} --guidance"
        f" {' '.join(f'{scale:g}' for scale in scales)}",
    )
    for world, checkpoint in WORLDS.items():
        for scale in scales:
            name = f"{world}-w{scale:g}"

            def report(done: int, name: str = name) -> None:
                print(f"{name}: batch {done}/{batches}", file=sys.stderr, flush=True)

            weights = sha256(ROOT / checkpoint / "model.safetensors")
            file = root / f"gradient-{name}-{batches}-{weights[:12]}.json"
            if not file.exists():
                meter = Meter(ROOT / checkpoint, TRAINING_PROMPTS, scale)
                found = rows(meter.gradients(batches, report))
                machine = f"{platform.machine()}, CPU only, {os.cpu_count()} cores, {date.today()}"
                write_whole(file, json.dumps({"measured": machine, "rows": found}))
            table = json.loads(file.read_text(encoding="utf-8"))
            yield f"## World {world} (`{checkpoint}`), sampled at w = {scale:g}\n"
            yield f"Measured on {table['measured']}.\n"
            yield from markdown([COLUMNS, *table["rows"]])
            yield ""


if __name__ == "__main__":
    sys.exit(main())
