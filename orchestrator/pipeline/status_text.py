"""Prints the status of a run: as text for people, and as JSON for programs.

Both count steps as metrics.jsonl does, from 1. The ledger counts them from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from orchestrator.pipeline.ledger_view import DONE, GroupEntry, ScalingEntry, WorkerEntry
from orchestrator.pipeline.status import RunStatus
from orchestrator.record.progress import duration
from policy.types import JsonDict

# The id of the prompt of a group, by the ledger's step and place.
PromptIds = Mapping[tuple[int, int], str]
_ROLES = ("rollout", "reward", "learner")
_ORDER = ("waiting", "generating", "scoring", "ready", "trained", "dropped")
_HEALING = ("starting", "lost")  # states of a worker that takes the place of a lost one
_WISHES_SHOWN = 5
_COLUMNS = (
    *("step", "place", "prompt", "state", "attempt", "draw"),
    *("version", "owner", "lease until", "reason"),
)


def as_text(status: RunStatus, prompt_ids: PromptIds | None = None) -> str:
    """Several lines; with ``prompt_ids`` there is one line for each group."""
    ledger = status.ledger
    lines = [
        f"run      {status.folder} (ledger {ledger.run}, epoch {ledger.epoch})",
        f"driver   {_driver(status)}",
        f"steps    {ledger.committed} of {status.steps} committed; {_checkpoint(status)}",
        f"time     {_time(status)}",
        *_section("groups", _in_flight(status)),
        *_section("workers", _workers(status)),
        *_section("heals", healing(status)),
        *_section("scaling", map(_wish, ledger.scaling[-_WISHES_SHOWN:])),
        *_section("counts", (f"{name} {count}" for name, count in ledger.counts.items())),
        *_section(
            "errors",
            (f"{_clock(error.time)}  epoch {error.epoch}: {error.text}" for error in ledger.errors),
        ),
    ]
    if prompt_ids is not None:
        lines += ["", *_table(_group_row(group, prompt_ids) for group in ledger.groups)]
    return "\n".join(lines)


def as_json(status: RunStatus, prompt_ids: PromptIds | None = None) -> JsonDict:
    """The same as one JSON object. Durations and Unix times are in seconds."""
    ledger = status.ledger
    found: JsonDict = {
        "run": str(status.folder),
        "ledger": ledger.run,
        "epoch": ledger.epoch,
        "alive": status.alive,
        "driver_process": status.driver,
        "silent_s": status.silent_s,
        "steps": status.steps,
        "committed": ledger.committed,
        "checkpoint": None if status.checkpoint is None else str(status.checkpoint),
        "seconds_per_step": status.recent_s,
        "seconds_left": status.left_s if status.alive else None,
        "in_flight": {step + 1: dict(counts) for step, counts in _counts(status).items()},
        "workers": [vars(worker) for worker in ledger.workers],
        "heals": healing(status),
        "scaling": [vars(wish) for wish in ledger.scaling],
        "counts": dict(ledger.counts),
        "errors": [vars(error) for error in ledger.errors],
    }
    if prompt_ids is not None:
        found["groups"] = [
            vars(group)
            | {"step": group.step + 1, "prompt_id": prompt_ids.get((group.step, group.place))}
            for group in ledger.groups
        ]
    return found


def healing(status: RunStatus) -> list[str]:
    """What is being repaired at the moment: workers and groups. Nothing is, in a dead run."""
    if not status.alive:
        return []
    ledger = status.ledger
    workers = [f"{w.name}: {w.state}" for w in ledger.workers if w.state in _HEALING]
    groups = [
        f"step {group.step + 1} place {group.place}: {group.state} again, attempt"
        f" {group.attempt + (group.state == 'waiting')}; {group.reason}".removesuffix("; ")
        for group in ledger.groups
        if group.step >= ledger.committed
        and group.attempt + (group.state == "waiting") > 1
        and group.state in ("waiting", "generating")
    ]
    return workers + groups


def _driver(status: RunStatus) -> str:
    heard = f"last sign of life {duration(status.silent_s)} ago"
    if not status.alive:
        return f"does not run; {heard}"
    here = "" if status.driver is None else f" as process {status.driver} of this machine"
    starting = "" if status.ledger.workers else "; the workers start"
    return f"runs{here}; {heard}{starting}"


def _checkpoint(status: RunStatus) -> str:
    if status.checkpoint is None:
        return "no checkpoint yet"
    return f"the last checkpoint is {status.checkpoint.name}"


def _time(status: RunStatus) -> str:
    if status.recent_s is None or status.left_s is None:
        return "no step is done yet"
    left = f"; ETA {duration(status.left_s)}" if status.alive else ""
    return f"{status.recent_s:.1f} s a step{left}"


def _section(name: str, lines: Sequence[str] | Iterator[str]) -> list[str]:
    """The lines, with the name before the first one."""
    first, *others = list(lines) or ["none"]
    return [f"{name:<9}{first}", *(f"{'':<9}{line}" for line in others)]


def _counts(status: RunStatus) -> dict[int, Counter[str]]:
    """How many groups of each step in flight are in each state."""
    found: dict[int, Counter[str]] = {}
    for group in status.ledger.groups:
        if group.step >= status.ledger.committed:
            found.setdefault(group.step, Counter())[group.state] += 1
    return found


def _in_flight(status: RunStatus) -> Iterator[str]:
    for step, counts in _counts(status).items():
        states = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        yield f"step {step + 1}: {states}"


def _workers(status: RunStatus) -> Iterator[str]:
    if not status.alive and status.ledger.workers:
        yield "gone with the driver; what they did last:"
    for role in _ROLES:
        for worker in status.ledger.workers:
            if worker.role == role:
                yield _worker(worker)


def _worker(worker: WorkerEntry) -> str:
    version = f", weights {worker.weight_version}" if worker.weight_version >= 0 else ""
    return f"{worker.name}: {worker.state}{version}"


def _wish(wish: ScalingEntry) -> str:
    """One line: when, from and to how many workers, who asked, and the answer."""
    changes = ", ".join(
        f"{role} {wish.before.get(role, '?')} -> {count}" for role, count in wish.wanted.items()
    )
    after = f" after {duration(wish.answered - wish.asked)}" if wish.answer == DONE else ""
    answer = f"{wish.answer or 'not answered yet'}{after}"
    return f"{_clock(wish.asked)}  {changes} (asked by {wish.asked_by}): {answer}"


def _group_row(group: GroupEntry, prompt_ids: PromptIds) -> tuple[str, ...]:
    return (
        str(group.step + 1),
        str(group.place),
        prompt_ids.get((group.step, group.place), "-"),
        group.state,
        str(group.attempt),
        str(group.draw),
        str(group.weight_version) if group.weight_version >= 0 else "-",
        group.owner or "-",
        _clock(group.deadline) if group.owner else "-",
        group.reason or "-",
    )


def _table(rows: Iterator[tuple[str, ...]]) -> list[str]:
    table = [_COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _clock(seconds: float) -> str:
    """A Unix time as text, in UTC: the reader may be in another zone than the run."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
