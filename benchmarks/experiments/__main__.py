"""The command line of ``benchmarks.experiments``, which the package describes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import ModuleType

from benchmarks.cells import ROOT
from benchmarks.experiments.arms import TRAINING_PROMPTS, WORLDS
from benchmarks.experiments.figure import draw
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import choice, markdown, status, table
from benchmarks.experiments.studies import STUDIES
from orchestrator.settings.resources import usable_cores
from policy.digest import sha256
from policy.disk import write_whole
from policy.errors import RunFailed, UserError

DOCS = ROOT / "docs" / "experiments"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 only if no run failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = {
        "run": _run,
        "weights": _weights,
        "status": _status,
        "table": _table,
        "choose": _choose,
        "figure": _figure,
        "analyze": _analyze,
        "drawing": _drawing,
    }
    for name, run in (runs | {"cost": _cost, "gradient": _gradient}).items():
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument(
            "--root", type=Path, default=ROOT / "runs" / "experiments", help="logs, temporary files"
        )
        if name in runs:
            command.add_argument(
                "--records", type=Path, default=DOCS / "results", help="numbers of finished runs"
            )
        if name == "run":
            command.add_argument("studies", nargs="*", metavar="STUDY", help="default: all")
        if name in ("run", "weights"):
            command.add_argument(
                "--jobs", type=int, default=usable_cores(), help="runs at once (default: the cores)"
            )
        if name == "cost":
            command.add_argument("arm", help="name of an arm, as in the names of the records")
        if name == "drawing":
            command.add_argument("--rounds", type=int, default=8, help="of 128 images (8)")
        if name == "gradient":
            command.add_argument("--batches", type=int, default=16, help="of 128 images (16)")
            command.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (UserError, RunFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def _run(options: argparse.Namespace) -> int:
    chosen = [study for study in STUDIES if not options.studies or study.name in options.studies]
    unknown = set(options.studies) - {study.name for study in STUDIES}
    if unknown:
        raise UserError(f"no study is called {', '.join(sorted(unknown))}")
    before = {study.before[0].name: study.before for study in chosen}
    runs = {(arm.name, seed): (arm, seed) for study in chosen for arm, seed in study.runs()}
    wanted = [*before.values(), *runs.values()]
    run_all = _running().run_all
    return _until_stopped(lambda *where: run_all(wanted, *where), options)


def _weights(options: argparse.Namespace) -> int:
    return _until_stopped(_running().make_weights, options)


def _running() -> ModuleType:
    """The module that runs. It imports DeepSpeed, which the other commands do not need."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would look for others, and say so
    from benchmarks.experiments import running

    return running


def _until_stopped(runs: Callable[[Records, Path, int], int], options: argparse.Namespace) -> int:
    try:
        failed = runs(_records(options), options.root.absolute(), options.jobs)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130
    return 1 if failed else 0


def _records(options: argparse.Namespace) -> Records:
    return Records(options.records, options.root.absolute())


def _status(options: argparse.Namespace) -> int:
    print(status(_records(options)))
    return 0


def _choose(options: argparse.Namespace) -> int:
    print(f"CONFIRMED: tuple[str, ...] = {choice(_records(options))}")
    return 0


def _table(options: argparse.Namespace) -> int:
    text = table(_records(options), DOCS)
    (DOCS / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _figure(options: argparse.Namespace) -> int:
    for file in draw(_records(options), DOCS):
        print(file)
    return 0


def _analyze(options: argparse.Namespace) -> int:
    from benchmarks.experiments.analyses import page

    text = "\n".join(page(_records(options), options.root.absolute()))
    write_whole(DOCS / "entropy.md", text)
    print(text)
    return 0


def _drawing(options: argparse.Namespace) -> int:
    from benchmarks.experiments.drawing import page

    command = f"python -m benchmarks.experiments drawing --rounds {options.rounds}"
    lines = page(_records(options), options.root.absolute(), options.rounds, command)
    text = "\n".join(lines) + "\n"
    write_whole(DOCS / "drawing.md", text)
    print(text)
    return 0


def _cost(options: argparse.Namespace) -> int:
    from benchmarks.experiments.cost import cost

    arms = {arm.name: arm for study in STUDIES for arm in study.arms}
    if options.arm not in arms:
        raise UserError(f"no arm is called {options.arm}")
    # No registered seed: what is seen here decides nothing.
    cost(arms[options.arm], seed=0)
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
