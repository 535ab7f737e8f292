"""What a ledger holds, as typed values for readers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from policy.types import JsonDict

GroupState = Literal["waiting", "generating", "scoring", "ready", "trained", "dropped"]


@dataclass(frozen=True)
class GroupEntry:
    """Where one prompt group is. ``place`` is its index in the batch of its step."""

    step: int
    place: int
    state: GroupState
    attempt: int  # attempts so far; the last one may still be going on
    draw: int  # which replacement's seeds the last attempt samples with
    owner: str  # the worker that samples it; empty in every other state
    deadline: float  # end of the owner's lease, Unix time of the Redis server; 0 without an owner
    weight_version: int  # the weights that sampled it; -1 before that
    reason: str  # why it waits again, or why it was dropped


@dataclass(frozen=True)
class CommitEntry:
    """One optimizer step of the history that survives."""

    step: int
    epoch: int  # of the driver that committed it
    weight_version: int
    attempts: Mapping[int, int]  # the attempt that was trained, by place


@dataclass(frozen=True)
class WorkerEntry:
    """What the driver last noted about one worker."""

    name: str
    role: str
    state: str
    weight_version: int
    since: float = 0.0  # Unix time of the note; the ledger sets it


@dataclass(frozen=True)
class ErrorEntry:
    """One of the last errors."""

    time: float  # Unix time
    epoch: int
    text: str


DONE = "done"  # the answer to a wish that was granted


@dataclass(frozen=True)
class ScalingEntry:
    """A wish for other numbers of workers, and what the driver made of it."""

    id: str
    asked_by: str
    wanted: Mapping[str, int]  # workers, by role: rollout, or the name of a reward
    asked: float  # Unix time
    before: Mapping[str, int]  # workers that there were; empty until the driver takes the wish up
    answer: str  # DONE, or a reason; empty until the driver answers
    answered: float  # Unix time; 0 until then


@dataclass(frozen=True)
class LedgerView:
    """The whole ledger at one moment."""

    run: str
    epoch: int
    taken: float  # Unix time at which the driver of this epoch began
    committed: int  # steps whose commit survives; the next step to commit
    checkpoint: int  # steps in the last checkpoint; 0 before the first one
    base: int  # the ledger was begun anew at this step, and knows nothing of earlier ones
    groups: tuple[GroupEntry, ...]  # by step and place
    commits: tuple[CommitEntry, ...]  # by step
    workers: tuple[WorkerEntry, ...]  # by name
    errors: tuple[ErrorEntry, ...]  # the newest first
    counts: Mapping[str, int]
    scaling: tuple[ScalingEntry, ...]  # the last wishes, the newest last


def view_of(
    head: Mapping[str, str],
    groups: Mapping[str, str],
    commits: Mapping[str, str],
    workers: Mapping[str, str],
    errors: Sequence[str],
    counts: Mapping[str, str],
    scaling: Sequence[str],
) -> LedgerView:
    """The view of the values of the ledger's seven keys (docs/ledger.md)."""
    return LedgerView(
        run=head["run"],
        epoch=int(head["epoch"]),
        taken=float(head["taken"]),
        committed=int(head["committed"]),
        checkpoint=int(head["checkpoint"]),
        base=int(head["base"]),
        groups=tuple(
            sorted(map(_group, groups.items()), key=lambda group: (group.step, group.place))
        ),
        commits=tuple(
            _commit(step, json.loads(commits[str(step)])) for step in sorted(map(int, commits))
        ),
        workers=tuple(WorkerEntry(name, **json.loads(workers[name])) for name in sorted(workers)),
        errors=tuple(ErrorEntry(**json.loads(text)) for text in errors),
        counts={name: int(count) for name, count in sorted(counts.items())},
        scaling=tuple(ScalingEntry(**json.loads(text)) for text in scaling),
    )


def _commit(step: int, record: JsonDict) -> CommitEntry:
    attempts = {int(place): attempt for place, attempt in record["attempts"].items()}
    return CommitEntry(step, record["epoch"], record["weight_version"], attempts)


def _group(item: tuple[str, str]) -> GroupEntry:
    step, place = map(int, item[0].split(":"))
    return GroupEntry(step, place, **json.loads(item[1]))
