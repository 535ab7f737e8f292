"""What must hold of the ledger and of the learner's rows when a run with faults has ended.

Pure functions of what was read from the run folder. A group is named by its step, counted from 0,
and its place in the step. The ledger says which groups were committed; the rows of metrics.jsonl
are the learner's own record of how many groups it has trained on in each step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from orchestrator.pipeline.ledger_view import LedgerView
from orchestrator.record.metrics import find
from policy.types import JsonDict

# The steps at the end whose reward is compared, and how many standard errors it may be off.
_LAST_STEPS, _ERRORS = 40, 4.0


@dataclass(frozen=True)
class Expected:
    """What the settings promise."""

    steps: int
    groups_per_step: int
    max_staleness: int


@dataclass
class Verdict:
    """How many groups are not where they belong, and sentences about everything that is wrong."""

    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, wanted: Counter[object], found: Counter[object], source: str) -> None:
        """Compare how often each thing is there with how often it should be."""
        for thing in sorted(set(wanted) | set(found), key=repr):
            more, less = found[thing] - wanted[thing], wanted[thing] - found[thing]
            if less > 0:
                self.lost += less
                self.problems.append(f"{source}: {thing}: {less} missing")
            elif more > 0 and wanted[thing]:
                self.duplicated += more
                self.problems.append(f"{source}: {thing}: {more} too many")
            elif more > 0:
                self.unexpected += more
                self.problems.append(f"{source}: {thing}: {more} that nobody expects")


def judged(expected: Expected, view: LedgerView, rows: Sequence[JsonDict]) -> Verdict:
    """Every group is committed exactly once or dropped for a reason, by both records."""
    verdict = Verdict()
    _check_ledger(verdict, expected, view)
    _check_rows(verdict, expected, view, rows)
    return verdict


def _check_ledger(verdict: Verdict, expected: Expected, view: LedgerView) -> None:
    say = verdict.problems.append
    groups = {(group.step, group.place): group for group in view.groups}
    dropped = [key for key, group in groups.items() if group.state == "dropped"]
    committed = [(commit.step, place) for commit in view.commits for place in commit.attempts]
    # A ledger that was begun anew at step ``base`` knows nothing of the steps before it.
    steps = range(view.base, expected.steps)
    wanted = Counter((step, place) for step in steps for place in range(expected.groups_per_step))
    verdict.count(wanted, Counter(committed + dropped), "ledger")
    for step, place in committed:
        if (step, place) not in groups:
            say(f"ledger: group {place} of step {step} is committed and not in the ledger")
    if view.committed != expected.steps:
        say(f"ledger: {view.committed} steps are committed, not {expected.steps}")
    if view.checkpoint != expected.steps:
        say(f"ledger: the last checkpoint is of step {view.checkpoint}, not {expected.steps}")
    attempts = {
        (commit.step, place): attempt
        for commit in view.commits
        for place, attempt in commit.attempts.items()
    }
    for key, group in groups.items():
        who = f"ledger: group {group.place} of step {group.step}"
        if group.state not in ("trained", "dropped"):
            say(f"{who} is {group.state}")
        if group.owner or group.deadline:
            say(f"{who} is still leased to {group.owner}")
        if group.state == "dropped" and not group.reason:
            say(f"{who} is dropped without a reason")
        if group.state == "trained":
            if attempts.get(key) != group.attempt:
                say(f"{who}: attempt {group.attempt} is trained, {attempts.get(key)} committed")
            if not 0 <= group.step - group.weight_version <= expected.max_staleness:
                say(f"{who} was sampled by weight version {group.weight_version}")
    for commit in view.commits:
        if commit.weight_version != commit.step + 1:
            say(f"ledger: step {commit.step} made weight version {commit.weight_version}")
        if commit.epoch > view.epoch:
            say(f"ledger: step {commit.step} has epoch {commit.epoch}, the ledger {view.epoch}")
    for before, after in zip(view.commits, view.commits[1:], strict=False):
        if after.epoch < before.epoch:
            say(
                f"ledger: epoch {after.epoch} of step {after.step} is below that of the step before"
            )


def _check_rows(
    verdict: Verdict, expected: Expected, view: LedgerView, rows: Sequence[JsonDict]
) -> None:
    say = verdict.problems.append
    size = expected.groups_per_step
    dropped = Counter(group.step for group in view.groups if group.state == "dropped")
    wanted: Counter[object] = Counter()
    for step in range(expected.steps):
        wanted[f"step {step}"] = size - dropped[step]
    found: Counter[object] = Counter()
    for row in rows:
        found[f"step {row['step'] - 1}"] += row["groups/trained"]
    verdict.count(wanted, found, "metrics.jsonl")
    numbers = [row["step"] for row in rows]
    if numbers != list(range(1, expected.steps + 1)):
        say(f"metrics.jsonl: the rows are of steps {numbers}")
    for row in rows:
        if row["weight_version"] != row["step"]:
            say(f"metrics.jsonl: step {row['step']} made weight version {row['weight_version']}")
        if not 0 <= row["staleness/mean"] <= expected.max_staleness:
            say(f"metrics.jsonl: step {row['step']} has staleness {row['staleness/mean']}")
    trained = Counter(commit.step for commit in view.commits for _ in commit.attempts)
    for row in rows:
        step = row["step"] - 1
        if step >= view.base and row["groups/trained"] != trained[step]:
            say(
                f"metrics.jsonl: step {step} trained on {row['groups/trained']} groups, the ledger"
                f" has {trained[step]}"
            )


def fallen(before: LedgerView, after: LedgerView) -> list[str]:
    """What went down between two looks at the ledger of one run, and must only rise."""
    if before.run != after.run:
        return [f"the ledger of run {before.run} became that of run {after.run}"]
    problems = []
    if after.epoch < before.epoch:
        problems.append(f"the epoch fell from {before.epoch} to {after.epoch}")
    attempts = {(group.step, group.place): group.attempt for group in after.groups}
    for group in before.groups:
        now = attempts.get((group.step, group.place), group.attempt)
        if now < group.attempt:
            who = f"group {group.place} of step {group.step}"
            problems.append(f"the attempt of {who} fell from {group.attempt} to {now}")
    for name, count in before.counts.items():
        if after.counts.get(name, 0) < count:
            problems.append(f"the counter {name} fell from {count} to {after.counts.get(name, 0)}")
    return problems


def undisturbed(view: LedgerView) -> list[str]:
    """What a run without faults must not have counted."""
    return [
        f"the undisturbed run counts {name} = {count}"
        for name, count in view.counts.items()
        if count
    ]


def other_numbers(rows: Sequence[JsonDict], reference: Sequence[JsonDict]) -> list[str]:
    """Metrics that differ between two runs of one seed although nothing but times may differ.

    How often workers were replaced and batches scored again is no number of the algorithm.
    """
    problems = []
    for row, other in zip(rows, reference, strict=False):
        for key in sorted(set(row) | set(other)):
            metric = find(key)
            if metric is not None and metric.kind == "time":
                continue
            if key.startswith("scoring/"):
                continue
            if row.get(key) != other.get(key):
                step = row["step"]
                problems.append(f"step {step}: {key} is {row.get(key)}, not {other.get(key)}")
    return problems


def other_reward(rows: Sequence[JsonDict], reference: Sequence[JsonDict]) -> list[str]:
    """Whether the reward at the end is another one than that of a run without faults.

    Above staleness 0 two runs of one seed differ, because their weights are of other steps. They
    still sample for the same prompts in each step. So the differences between their steps are
    compared with zero, in the last half of the run and over at most 40 steps. Their mean may be off
    by 4 of its standard errors, which happens by chance once in some thousand runs.
    """
    steps = min(_LAST_STEPS, len(rows) // 2, len(reference) // 2)
    if steps < 2:
        return ["there are too few steps to compare their reward"]
    pairs = zip(rows[-steps:], reference[-steps:], strict=True)
    differences = [row["reward/mean"] - other["reward/mean"] for row, other in pairs]
    error = stdev(differences) / math.sqrt(steps)
    if abs(mean(differences)) <= _ERRORS * error:
        return []
    return [
        f"the reward of the last {steps} steps is {mean(differences):+.3f} off that of the"
        f" undisturbed run, with a standard error of {error:.3f}"
    ]
