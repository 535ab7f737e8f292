"""Runs ``configs/dress-rehearsal-1b.yaml`` from the checkpoint to the image, and measures it.

    python -m benchmarks.dress_rehearsal OUT
    python -m benchmarks.dress_rehearsal OUT --like tiny     # the same within two minutes

It writes a random checkpoint and random reward models below the folder OUT, which must be new, and
trains. The run is stopped in its first step and resumed for the second. The last checkpoint is
exported, and draws an image. The tables say how long each part took, and the most memory that its
processes had. `own` memory is that which no other process has: it is neither a page of a mapped
file nor shared memory. `together` counts a page that n processes share as one. Of the object store
the pages count that were ever written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dress_rehearsal.watching import Watched, Worker, watched
from orchestrator.record.run_folder import read_rows
from orchestrator.settings.memory import GIB
from orchestrator.settings.plan import Machine, Plan, make_plan
from orchestrator.settings.plan_inputs import planned_lengths, planned_size
from orchestrator.settings.run_config import load_config

CONFIG = Path("configs/dress-rehearsal-1b.yaml")
_OURS = [sys.executable, "-m", "orchestrator"]
# What the tables call the states of a worker, in the order of a step.
_STATES = ("starting", "sampling", "scoring", "learning", "push", "load", "checkpoint")


def main(arguments: list[str] | None = None) -> int:
    what, commands, how = (part.strip() for part in __doc__.split("\n\n"))
    parser = argparse.ArgumentParser(
        "python -m benchmarks.dress_rehearsal",
        description=what,
        epilog=f"examples:\n    {commands}\n\n{how}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="OUT", help="where everything is written")
    add("--like", default="janus-pro-1b", choices=("janus-pro-1b", "janus-pro-7b", "tiny"),
        help="model whose sizes are rehearsed; tiny has tiny rewards too")  # fmt: skip
    add("--image-size", type=int, default=64, metavar="PIXELS", help="default: 64")
    options, overrides = parser.parse_known_args(arguments)
    folder = options.folder.absolute()
    if folder.exists():
        parser.error(f"{folder} exists; OUT must be new")
    folder.mkdir(parents=True)
    rehearse(folder, options.like, options.image_size, overrides)
    return 0


def rehearse(folder: Path, like: str, image_size: int, overrides: Sequence[str]) -> None:
    """Run everything and print the tables."""
    tiny, log = like == "tiny", folder / "output.log"
    model, rewards = folder / "model", folder / "rewards"
    settings = [f"root={folder}", f"model.path={model}"]
    settings += [f"rewards.{index}.options.model={rewards / name}"
                 for index, name in enumerate(("hps", "git", "grounding_dino"))]  # fmt: skip
    settings += [f"rewards.0.options.clip={rewards / 'hps'}", *overrides]
    train = [*_OURS, "train", str(CONFIG), *settings]
    parts: dict[str, Watched] = {}

    def run(name: str, *command: str, stop_when: str | None = None) -> Watched:
        parts[name] = watched(command, log, stop_when)
        # 130 is the code of a run that was told to stop.
        if parts[name].code != (130 if stop_when else 0):
            raise SystemExit(f"{name} ended with code {parts[name].code}; see {log}")
        return parts[name]

    size = ["--image-size", str(image_size), "--like", like]
    run("init-random", *_OURS, "init-random", *size, str(model))
    write = [sys.executable, "-m", "benchmarks.random_rewards"]
    run("random rewards", *write, *(["--tiny"] if tiny else []), str(rewards))
    first = run("train, stopped in step 1", *train, stop_when="learning")
    resumed = run("train --resume, step 2", *train, "--resume")
    checkpoint = load_config(CONFIG, settings).folder / "checkpoints" / "step-2"
    run("export", *_OURS, "export", str(checkpoint), str(folder / "exported"))
    drawing = ["--prompt", "a photo of a red circle", "--n", "1", "--max-cot-tokens", "16"]
    drawing += ["--dtype", "bfloat16", "--output", str(folder / "images")]
    run("generate", *_OURS, "generate", "--model", str(folder / "exported"), *drawing)

    print(_parts_table(parts))
    print(_milestones_table({"first": first, "resumed": resumed}))
    print(_roles_table(resumed))
    plan = _plan(settings)
    print(_memory_table(plan, [*first.workers, *resumed.workers]))
    print(_store_table(plan, {"first": first, "resumed": resumed}))
    print(_sizes_table([model, rewards, *sorted(checkpoint.iterdir()), folder / "exported"]))
    print(_seconds_table(read_rows(checkpoint.parents[1] / "metrics.jsonl")))


def _parts_table(parts: dict[str, Watched]) -> str:
    lines = ["| command | seconds | all processes together, GiB |", "|---|---|---|"]
    lines += [
        f"| {name} | {part.seconds:.1f} | {part.together.proportional / GIB:.1f} |"
        for name, part in parts.items()
    ]
    return "\n".join(lines) + "\n"


def _milestones_table(runs: dict[str, Watched]) -> str:
    """When the run had come to its first tokens and its first update."""
    lines = [
        "| seconds after the command | " + " | ".join(runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    for text, role, doing, edge in (
        ("the policy is loaded by the rollout worker", "rollout", "starting", "end"),
        ("the first tokens are sampled", "rollout", "sampling", "begin"),
        ("the first groups are sampled", "rollout", "sampling", "end"),
        ("the first update begins", "learner", "learning", "begin"),
        ("the first update is done", "learner", "learning", "end"),
    ):
        spans = [run.first(role, doing) for run in runs.values()]
        times = [f"{getattr(span, edge):.1f}" if span else "" for span in spans]
        lines.append(f"| {text} | " + " | ".join(times) + " |")
    return "\n".join(lines) + "\n"


def _roles_table(run: Watched) -> str:
    """Seconds in which each worker of the run did each thing."""
    lines = ["| worker | " + " | ".join(_STATES) + " |", "|---|" + "---|" * len(_STATES)]
    for worker in run.workers:
        seconds = [worker.total(state) for state in _STATES]
        if any(seconds):
            cells = [f"{value:.1f}" if value else "" for value in seconds]
            lines.append(f"| {worker.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plan(settings: Sequence[str]) -> Plan:
    config = load_config(CONFIG, list(settings))
    size, _ = planned_size(config.model.path)
    return make_plan(config, size, planned_lengths(config), Machine(0, 0, None))


def _memory_table(plan: Plan, workers: Sequence[Worker]) -> str:
    """Peak memory beside the plan, of the worker of each name that had most."""
    planned = {process.role: plan.host[process.name] for process in plan.processes}
    lines = [
        "| worker | planned, GiB | resident | own | resident, before its first work | own |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(worker.name for worker in workers):
        most = max((w for w in workers if w.name == name), key=lambda w: w.memory.resident)
        role = name.rpartition(" ")[0]
        # Which reward has which number is not known.
        there = f"{planned[role] / GIB:.1f}" if role in ("rollout", "learner") else ""
        found = [
            f"{amount / GIB:.1f}"
            for memory in (most.memory, most.starting)
            for amount in (memory.resident, memory.own)
        ]
        lines.append(f"| {name} | {there} | " + " | ".join(found) + " |")
    return "\n".join(lines) + "\n"


def _store_table(plan: Plan, runs: dict[str, Watched]) -> str:
    """What the object store took of the machine's memory, beside the plan's upper bound."""
    planned = plan.host["object store"] / 1e6
    lines = ["| object store of the run | planned at most, MB | written, MB |", "|---|---|---|"]
    lines += [f"| {name} | {planned:,.1f} | {run.store / 1e6:,.1f} |" for name, run in runs.items()]
    return "\n".join(lines) + "\n"


def _sizes_table(places: Sequence[Path]) -> str:
    lines = ["| on disk | MB |", "|---|---|"]
    for place in places:
        files = [file for file in (place, *place.rglob("*")) if file.is_file()]
        total = sum(file.stat().st_size for file in files)
        lines.append(f"| {place.parent.name}/{place.name} | {total / 1e6:,.1f} |")
    return "\n".join(lines) + "\n"


def _seconds_table(rows: Sequence[dict[str, object]]) -> str:
    names = ("rollout", "reward", "learn", "sync", "save", "evaluate", "step")
    lines = ["| step | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{row.get(f'seconds/{name}', 0):.1f}" for name in names]
        lines.append(f"| {row['step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
