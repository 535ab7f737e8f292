"""The command line of ``benchmarks.chaos``, which the package describes."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.chaos import hosts
from benchmarks.chaos.checks import (
    Expected,
    Verdict,
    judged,
    other_numbers,
    other_reward,
    undisturbed,
)
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.log_checks import checksums, wrongly_counted, wrongly_served
from benchmarks.chaos.plan import planned
from benchmarks.chaos.processes import become_subreaper
from benchmarks.chaos.report import duration, last_line, table
from benchmarks.chaos.strikes import ENOUGH, never_struck
from benchmarks.chaos.trial import Trial
from orchestrator.pipeline.ledger_folder import read_ledger_folder

_GROUPS = 4
_CALM_STEPS = 10  # the last ones, so that the run does not end while a fault waits for its moment
# Small steps, and deadlines so short that a frozen process is soon noticed.
SMALL = (
    f"prompts_per_step={_GROUPS}",
    "rollout.group_size=4",
    "rollout.batch_size=8",
    "cluster.start_timeout_s=180",
    "rollout.timeout_s=12",
    "rollout.load_timeout_s=12",
    'rewards=[{name: attributes, factory: "shapes.rewards:Attributes", workers: 2,'
    " cpus_per_worker: 0.5, timeout_s: 12, retry_delay_s: 0.2, restarts: 8}]",
    "learner.start_timeout_s=180",
    "learner.timeout_s=12",
    "learner.restarts=8",
    "learner.micro_batch_size=8",
    "evaluation.every=10",
    "evaluation.prompts=4",
    "evaluation.samples_per_prompt=1",
)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 only if all held."""
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description="Strike a run.")
    add = parser.add_argument
    add("--faults", type=int, default=100)
    add("--seed", type=int, default=0, help="of the faults' kinds and moments (default: 0)")
    add("--staleness", type=int, default=0, help="max_staleness of the run (default: 0)")
    add("--ranks", type=int, default=1, help="learner ranks (default: 1)")
    add("--checkpoint-every", type=int, default=2, help="steps between checkpoints (default: 2)")
    add("--steps-per-fault", type=float, default=2.5, help="(default: 2.5)")
    add("--hosts", type=int, help="lose hosts instead, of so many raylets with that of the head")
    add("--out", type=Path, help="folder that keeps the runs and the table of faults")
    options = parser.parse_args(arguments)
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as scratch:
        out = Path(scratch) / "runs" if options.out is None else options.out.absolute()
        out.mkdir(parents=True, exist_ok=True)
        if options.hosts is not None:
            return hosts.compare(options.hosts, options.faults, options.seed, out, Path(scratch))
        return _compare(options, out, Path(scratch))


def _compare(options: argparse.Namespace, out: Path, scratch: Path) -> int:
    """An undisturbed run and one with faults."""
    struck_steps = round(options.faults * options.steps_per_fault)
    steps = struck_steps + _CALM_STEPS
    settings = [
        *SMALL,
        f"steps={steps}",
        f"max_staleness={options.staleness}",
        f"learner.ranks={options.ranks}",
        f"checkpoint.every={options.checkpoint_every}",
    ]
    expected = Expected(steps, _GROUPS, options.staleness)
    calm = Trial(Driver(out, "calm", settings, scratch), step_s=0.0)
    calm.run([])
    verdict, late = _verdict(calm, expected)
    if not verdict.problems:
        verdict.problems += undisturbed(read_ledger_folder(calm.driver.folder))
    step_s = (
        median(row["seconds/step"] for row in calm.driver.rows()) if calm.driver.rows() else 1.0
    )
    print(f"undisturbed: {steps} steps in {calm.seconds:.0f} s, {step_s:.1f} s a step")
    if verdict.problems:
        return _end(verdict, calm, late, None, 0.0)

    faults = planned(options.faults, struck_steps, options.seed)
    print(f"seed {options.seed}; planned:")
    for fault in faults:
        print(f"  fault {fault}", flush=True)
    struck = Trial(Driver(out, "struck", settings, scratch), step_s)
    struck.run(faults)
    verdict, late = _verdict(struck, expected)
    if len(struck.strikes) < options.faults:
        verdict.problems.append(f"{len(struck.strikes)} faults struck, not {options.faults}")
    verdict.problems += never_struck(struck.strikes)
    equal = None
    if options.staleness == 0:
        ours, theirs = (_weights(trial.driver, steps) for trial in (struck, calm))
        equal = ours is not None and ours == theirs
        if not equal:
            verdict.problems.append(f"the final weights are {ours}, not {theirs}")
        verdict.problems += other_numbers(struck.driver.rows(), calm.driver.rows())
        made, wanted = (checksums(trial.driver.log()) for trial in (struck, calm))
        for version in sorted(made.keys() & wanted.keys()):
            if made[version] != wanted[version]:
                verdict.problems.append(f"weight version {version} is not the undisturbed run's")
    else:
        verdict.problems += other_reward(struck.driver.rows(), calm.driver.rows())
        if len(struck.strikes) >= ENOUGH and not late:
            verdict.problems.append("no late claim was refused, although learners were lost")
    times = duration(len(struck.strikes), struck.seconds, calm.seconds)
    print(times)
    if options.out is not None:
        text = f"{table(struck.strikes)}\n{times}"
        (out / "faults.md").write_text(text, encoding="utf-8")
    return _end(verdict, struck, late, equal, struck.seconds - calm.seconds)


def _verdict(trial: Trial, expected: Expected) -> tuple[Verdict, int]:
    """What is wrong after a run, and how many late claims its ledger refused."""
    if trial.driver.ended() != 0:
        return Verdict(problems=list(trial.problems)), 0
    view = read_ledger_folder(trial.driver.folder)
    verdict = judged(expected, view, trial.driver.rows())
    problems = trial.problems + verdict.problems
    log, deaths = trial.driver.log(), trial.driver.starts - 1
    problems += wrongly_served(log, expected.max_staleness)
    problems += wrongly_counted(log, view.counts, deaths)
    return replace(verdict, problems=problems), view.counts.get("late_refused", 0)


def _weights(driver: Driver, steps: int) -> str | None:
    file = driver.folder / "checkpoints" / f"step-{steps}" / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _end(verdict: Verdict, trial: Trial, late: int, equal: bool | None, seconds_lost: float) -> int:
    print(table(trial.strikes))
    if trial.started_again:
        print(f"{trial.started_again} times the run lost a worker while it opened, and ended")
    for problem in verdict.problems:
        print(f"WRONG: {problem}")
    print(last_line(trial.strikes, verdict, late, equal, seconds_lost))
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
