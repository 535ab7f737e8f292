"""What overlapping the stages is worth, and what the driver itself costs.

    python -m benchmarks.overlap stand-ins [--rollout 4 --reward 1 --learn 3 --sync 0.2]
    python -m benchmarks.overlap driver [--rollout-workers 256 --reward-workers 64]
    python -m benchmarks.overlap real --out DIR [--steps 20 --seeds 0 1 2] [OVERRIDE ...]
    python -m benchmarks.overlap predicted --out DIR [--steps 12 --rollout 4 --reward 1 --learn 6]

``stand-ins``: step time at staleness 0, 1 and 2 against the longest stage, with pools that sleep.
``driver``: CPU seconds of the driver's thread for one step, with pools of many workers that sleep
in the driver's own process: Ray is not called.
``real``: whole runs of ``configs/shapes.yaml``. The held-out reward after the last step, and its
gain over staleness 0 with the same seed, are means over seeds ± the half-width of the 95 % interval
(Student's t). On a machine with few cores the stages share the cores, and overlap can gain little
there.
``predicted``: a whole run with one rollout worker at staleness 0 says how long the work takes. From
that ``eg-grpo simulate`` predicts the step time of other runs, which are then made and measured.
All workers also sleep with each call (``benchmarks/sleeping_workers.py``).

The times of ``stand-ins`` and ``real`` are medians in seconds: of a step, and of what the driver
waits for in it. A stage that overlaps with another one is waited for shortly or not at all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.cells import interval
from benchmarks.sleeping_workers import COMMAND, environment
from benchmarks.stand_ins import Seconds, run_steps, stand_in_stages
from orchestrator.commands.simulate import measured_seconds, scenario_of, step_times
from orchestrator.pipeline import simulation
from orchestrator.record.run_folder import read_rows
from orchestrator.settings.run_config import RunConfig, load_config, load_saved
from policy.types import JsonDict

CONFIG = Path("configs/shapes.yaml")
STALENESS = (0, 1, 2)
STAND_IN_STAGES = ("rollout", "reward", "learn", "sync")
STAGES = (*STAND_IN_STAGES, "save")
# What ``predicted`` changes of its first run: rollout workers, reward workers and staleness.
PREDICTED = ((2, 1, 0), (4, 2, 0), (1, 1, 1), (2, 1, 1), (4, 2, 2))
WARM_UP = 3  # steps that fill the pipeline, and are left out


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    stand_ins = kinds.add_parser("stand-ins")
    stand_ins.set_defaults(run=_stand_ins)
    for name, seconds in (("rollout", 2.0), ("reward", 0.5), ("learn", 1.5), ("sync", 0.1)):
        stand_ins.add_argument(f"--{name}", type=float, default=seconds, help="seconds a step")
    stand_ins.add_argument("--steps", type=int, default=12)
    driver = kinds.add_parser("driver")
    driver.set_defaults(run=_driver)
    driver.add_argument("--rollout-workers", type=int, default=256)
    driver.add_argument("--reward-workers", type=int, default=64)
    driver.add_argument("--step", type=float, default=10.0, help="seconds of a step")
    driver.add_argument("--steps", type=int, default=4)
    real = kinds.add_parser("real")
    real.set_defaults(run=_real)
    real.add_argument("--out", type=Path, required=True)
    real.add_argument("--steps", type=int, default=20)
    real.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    predicted = kinds.add_parser("predicted")
    predicted.set_defaults(run=_predicted)
    predicted.add_argument("--out", type=Path, required=True)
    predicted.add_argument("--steps", type=int, default=12)
    for name, seconds in (("rollout", 4.0), ("reward", 1.0), ("learn", 6.0)):
        predicted.add_argument(f"--{name}", type=float, default=seconds, help="seconds a call")
    options, overrides = parser.parse_known_args()
    if options.run in (_stand_ins, _real) and options.steps < WARM_UP + 2:
        parser.error(f"--steps must be at least {WARM_UP + 2}: the first {WARM_UP} are left out")
    options.run(options, overrides)
    return 0


def _stand_ins(options: argparse.Namespace, overrides: list[str]) -> None:
    groups = 16
    seconds = Seconds(options.rollout, options.reward / groups, options.learn, options.sync)
    longest = max(options.rollout, options.reward, options.learn)
    _head("staleness", "step", *STAND_IN_STAGES, "of the longest stage")
    for staleness in STALENESS:
        # One group a batch and as many workers as groups: a step's rollout lasts one call.
        config = _config(
            [f"max_staleness={staleness}", f"steps={options.steps}", f"prompts_per_step={groups}",
             f"rollout.workers={groups}", "rollout.batch_size=8"]
        )  # fmt: skip
        rows = _rows(config, seconds, options.learn)[WARM_UP:]
        step = _median(rows, "step")
        waits = _waits(rows, STAND_IN_STAGES)
        print(f"| {staleness} | {step:.2f} | {waits} | {step / longest:.2f} x |")


def _driver(options: argparse.Namespace, overrides: list[str]) -> None:
    config = _config(
        [f"steps={options.steps}", f"prompts_per_step={options.rollout_workers}",
         f"rollout.workers={options.rollout_workers}", "rollout.batch_size=8", "max_staleness=1",
         f"rewards.0.workers={options.reward_workers}", "cluster.object_store_mb=4096"]
    )  # fmt: skip
    seconds = Seconds(options.step, 1.0, options.step, 0.1)
    used: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in_stages(config, Path(folder) / "run", seconds) as stages,
    ):
        before = time.thread_time()
        for _ in run_steps(stages, config.steps, options.step):
            used.append(time.thread_time() - before)
            before = time.thread_time()
    spent = statistics.median(used[1:])
    print(
        f"{options.rollout_workers} rollout and {options.reward_workers} reward workers: the"
        f" driver's thread uses {spent:.3f} CPU seconds of a step of {options.step:g} s,"
        f" {spent / options.step:.2%}"
    )


def _real(options: argparse.Namespace, overrides: list[str]) -> None:
    rows: dict[int, list[JsonDict]] = {staleness: [] for staleness in STALENESS}
    held_out: dict[int, list[float]] = {staleness: [] for staleness in STALENESS}
    # Other load on the machine comes and goes. The runs of one seed follow each other, so that
    # every staleness has its share of it.
    for seed, staleness in product(options.seeds, STALENESS):
        name = f"staleness-{staleness}-seed-{seed}"
        command = [
            *(sys.executable, "-m", "orchestrator", "train", str(CONFIG), f"name={name}"),
            *(f"root={options.out}", f"seed={seed}", f"max_staleness={staleness}"),
            *(f"steps={options.steps}", f"evaluation.every={options.steps}", *overrides),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        read = read_rows(options.out / name / "metrics.jsonl")
        rows[staleness] += read[WARM_UP:-1]
        held_out[staleness].append(read[-1]["evaluation/held_out"])
    _head("staleness", "step", *STAGES, "of staleness 0", "held-out reward", "gain over 0")
    base = _median(rows[0], "step")
    for staleness in STALENESS:
        step = _median(rows[staleness], "step")
        waits = _waits(rows[staleness], STAGES)
        pairs = zip(held_out[staleness], held_out[0], strict=True)
        gain = interval([own - other for own, other in pairs]) if staleness else ""
        print(
            f"| {staleness} | {step:.2f} | {waits} | {step / base:.2f} x |"
            f" {interval(held_out[staleness])} | {gain} |"
        )


def _predicted(options: argparse.Namespace, overrides: list[str]) -> None:
    first = _sleeping_run(options, overrides, 1, 1, 0)
    scenario = scenario_of(load_saved(first / "config.yaml"))
    found = measured_seconds(first, scenario, read_rows(first / "metrics.jsonl"))
    print(", ".join(f"{name} {each:.2f} s" for name, each in found.items()))
    _head("rollout workers", "reward workers", "staleness", "predicted", "measured", "ratio")
    for workers in PREDICTED:
        run = _sleeping_run(options, overrides, *workers)
        measured_s, predicted_s = step_times(run, simulation.Seconds(**found))
        numbers = " | ".join(map(str, workers))
        print(f"| {numbers} | {predicted_s:.2f} | {measured_s:.2f} |"
              f" {predicted_s / measured_s:.2f} |", flush=True)  # fmt: skip


def _sleeping_run(
    options: argparse.Namespace, overrides: list[str], rollout: int, reward: int, staleness: int
) -> Path:
    """The folder of a run in which each of a step's four groups is a batch."""
    name = f"rollout-{rollout}-reward-{reward}-staleness-{staleness}"
    rewards = [{"name": "attributes", "factory": "shapes.rewards:Attributes", "batch_size": 4,
                "workers": reward, "cpus_per_worker": 0.5}]  # fmt: skip
    command = [
        *(*COMMAND, "train", str(CONFIG), f"name={name}", f"root={options.out.absolute()}"),
        *("prompts_per_step=4", "rollout.group_size=4", "rollout.batch_size=4"),
        *("learner.micro_batch_size=16", f"rollout.workers={rollout}"),
        *(f"rewards={json.dumps(rewards)}", f"max_staleness={staleness}"),
        *(f"steps={options.steps}", f"evaluation.every={options.steps}"),
        *("evaluation.prompts=1", "evaluation.samples_per_prompt=1", *overrides),
    ]
    sleep = environment(options.rollout, options.reward, options.learn)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=sleep)
    return Path(options.out / name)


def _head(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")


def _waits(rows: Sequence[JsonDict], stages: Sequence[str]) -> str:
    return " | ".join(f"{_median(rows, stage):.2f}" for stage in stages)


def _median(rows: Sequence[JsonDict], stage: str) -> float:
    return statistics.median(row.get(f"seconds/{stage}", 0.0) for row in rows)


def _config(overrides: list[str]) -> RunConfig:
    return load_config(CONFIG, overrides)


def _rows(config: RunConfig, seconds: Seconds, learn_s: float) -> list[dict[str, float]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in_stages(config, Path(folder) / "run", seconds) as stages,
    ):
        return list(run_steps(stages, config.steps, learn_s))


if __name__ == "__main__":
    sys.exit(main())
