"""Runs the registered runs that are not recorded yet, several at a time.

Each run has a process of its own, which is forked: it need not import torch again, and leaves
nothing behind for the next one. It records its numbers itself, when it is finished.

Failure policy: a run that fails is named with its log, and the others go on, unless runs of more
than three arms fail in a row, or more than six runs: then the fault is not in a run. Ctrl-C and
SIGTERM end all runs at once. What they had not recorded is done again by the next call, with the
same numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import mean

from benchmarks.cells import ROOT
from benchmarks.experiments import weights as kept
from benchmarks.experiments.arms import DISTILLED, TRAINING_PROMPTS, WORLDS, Arm, write_one_task
from benchmarks.experiments.distil import distil
from benchmarks.experiments.likeness import vendi_of_codes
from benchmarks.experiments.records import Records
from benchmarks.experiments.training import Training
from orchestrator.settings.host import versions
from policy.errors import RunFailed, UserError
from policy.runtime import tune_process
from policy.types import JsonDict

# What is recorded of an evaluation, and of the last steps of training; null where a run lacks it.
EVALUATION = (
    "step",
    "set",
    "guidance_scale",
    "reward/mean",
    "reward/standard_error",
    "reward/attributes",
    "reward/structure",
    "reward/cleanliness",
    "detail/structure/strict",
    "by_task",
    "vendi",
)
METRICS = (
    "kl/mean",
    "reward/mean",
    "entropy/cot/mean",
    "entropy/cot/std",
    "entropy/image/mean",
    "entropy/image/std",
    "guidance/logprob_gap",
)
LAST_STEPS = 10
_MOST_ARMS_FAILED, _MOST_FAILED = 3, 6  # in a row; one study can have three arms that diverge
_PACKAGES = ("torch", "transformers", "deepspeed", "numpy")


@dataclass(frozen=True)
class _Running:
    process: BaseProcess
    arm: Arm
    seed: int
    started: float


def run_all(wanted: Sequence[tuple[Arm, int]], records: Records, scratch: Path, jobs: int) -> int:
    """Run those arms and seeds that are not recorded, in order; returns how many failed.

    Raises ``KeyboardInterrupt`` when it was stopped, ``RunFailed`` when nothing can be run, and
    ``UserError`` when runs that are recorded were made with other versions of packages: what would
    be run now could not be compared with them.
    """
    waiting = [(arm, seed) for arm, seed in wanted if seed not in records.runs(arm)]
    if waiting:
        _check_versions(wanted, records)
    print(f"{len(wanted) - len(waiting)} of {len(wanted)} runs are recorded", flush=True)
    return _run(waiting, records, scratch, jobs)


def make_weights(records: Records, scratch: Path, jobs: int) -> int:
    """Make those runs again whose weights should be kept and are not here; returns how many failed.

    A run fails that gets other weights than were recorded. Raises as ``run_all``.
    """
    waiting = kept.missing(records, scratch)
    print(f"weights of {len(waiting)} recorded runs are not here", flush=True)
    return _run(waiting, records, scratch, jobs)


def _check_versions(wanted: Sequence[tuple[Arm, int]], records: Records) -> None:
    now = _versions()
    for arm, seed in wanted:
        was = records.runs(arm).get(seed, {}).get("versions", now)
        for package in sorted(was.keys() | now.keys()):
            if was.get(package) != now.get(package):
                raise UserError(
                    f"{arm.cell(seed).name} was recorded with {package} {was.get(package)}, and"
                    f" here is {now.get(package)}: install that version, or delete the records"
                )


def _run(waiting: list[tuple[Arm, int]], records: Records, scratch: Path, jobs: int) -> int:
    scratch.mkdir(parents=True, exist_ok=True)
    commit, failed = _commit(), 0
    in_a_row: list[str] = []  # the arms of the last failures, up to the last success
    fork = multiprocessing.get_context("fork")
    running: dict[int, _Running] = {}
    with _terminated_by_signals(running):
        while waiting or running:
            while waiting and len(running) < jobs:
                arm, seed = waiting.pop(0)
                process = fork.Process(target=_child, args=(arm, seed, records, scratch, commit))
                process.start()
                running[process.sentinel] = _Running(process, arm, seed, time.monotonic())
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                ended = running.pop(sentinel)
                ended.process.join()
                name = ended.arm.cell(ended.seed).name
                if ended.process.exitcode == 0:
                    in_a_row, minutes = [], (time.monotonic() - ended.started) / 60
                    left = len(waiting) + len(running)
                    print(f"{name}: {minutes:.1f} min, {left} are left", flush=True)
                    continue
                failed, in_a_row = failed + 1, [*in_a_row, ended.arm.name]
                print(f"{name}: failed, see {_log(scratch, name)}", flush=True)
                if len(set(in_a_row)) > _MOST_ARMS_FAILED or len(in_a_row) > _MOST_FAILED:
                    raise RunFailed(f"{len(in_a_row)} runs in a row failed, so no others are begun")
    return failed


def run_one(arm: Arm, seed: int, scratch: Path) -> JsonDict:
    """Train and evaluate; returns what is recorded of the run, but for how it was made.

    The weights of some arms are kept below ``scratch``."""
    write_one_task(scratch)
    name = arm.cell(seed).name
    spent: dict[str, float] = {}
    if arm.distilled:
        started = time.process_time()
        student = scratch / DISTILLED.format(seed=seed)
        shutil.rmtree(student, ignore_errors=True)
        distil(ROOT / WORLDS[arm.world], TRAINING_PROMPTS, student, seed, _silent)
        spent["distil"] = time.process_time() - started
    training = Training(arm.cell(seed).config(scratch))
    first = training.weights
    evaluations, evaluated = [], arm.evaluated_after()

    def evaluate(step: int) -> None:
        for row, groups in training.evaluate():
            evaluations.append(row | {"step": step, "vendi": vendi_of_codes(groups)})

    def report(step: int) -> None:
        print(f"{name}: step {step}", flush=True)
        if step in evaluated:
            evaluate(step)

    if 0 in evaluated:
        evaluate(0)
    rows = training.train(arm.steps, report)
    weights: JsonDict = {"first": first, "last": training.weights}
    if kept.are_kept(arm):
        training.save(kept.folder(scratch, arm, seed))
        weights["file"] = kept.digest(scratch, arm, seed)
    training.close()
    spent |= training.cpu_seconds
    return {
        "evaluations": [{key: row.get(key) for key in EVALUATION} for row in evaluations],
        **_of_steps(rows),
        "weights": weights,
        "cpu_seconds": {stage: round(seconds, 1) for stage, seconds in spent.items()},
    }


def _of_steps(rows: Sequence[JsonDict]) -> JsonDict:
    """What is recorded of the steps: means over the last ones, and the updates skipped in all.

    A step whose loss or gradient is not finite has no value of some metrics, and a metric may be
    missing altogether. The mean is over the steps that have one, whose number is in ``counted``.
    """
    found = {
        key: [row[key] for row in rows[-LAST_STEPS:] if row.get(key) is not None] for key in METRICS
    }
    return {
        "last_steps": {key: mean(values) if values else None for key, values in found.items()},
        "counted": {key: len(values) for key, values in found.items()},
        "skipped_updates": sum(bool(row.get("updates/skipped")) for row in rows),
    }


def _child(arm: Arm, seed: int, records: Records, scratch: Path, commit: str) -> None:
    """What the process of a run does; exit code 0 only when the run is recorded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with _log(scratch, arm.cell(seed).name).open("w") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
        try:
            tune_process()
            run = run_one(arm, seed, scratch)
            run |= {
                "commit": commit,
                "date": str(date.today()),
                "machine": f"{platform.machine()}, CPU only, one thread",
                "versions": _versions(),
            }
            if (recorded := records.runs(arm).get(seed)) is None:
                records.add(arm, seed, run)
            elif problem := kept.difference(recorded, run):
                raise RunFailed(problem)
        except Exception:
            traceback.print_exc()
            os._exit(1)


@contextmanager
def _terminated_by_signals(
    running: dict[int, tuple[BaseProcess, Arm, str, float]],
) -> Iterator[None]:
    """End the runs when the block is left by Ctrl-C or SIGTERM, or by an error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for each in running.values():
            each.process.kill()
            each.process.join()
        signal.signal(signal.SIGTERM, before)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **versions(_PACKAGES)}


def _log(scratch: Path, name: str) -> Path:
    return scratch / f"{name}.log"


def _silent(step: int, text: str) -> None:
    pass


def _commit() -> str:
    """The commit that is checked out, with a mark if files of it are changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return git("rev-parse", "HEAD") + (" with changes" if changed else "")
