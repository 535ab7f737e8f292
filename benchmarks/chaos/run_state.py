"""What a run is doing at the moment, as the titles of its workers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.chaos.plan import Role
from benchmarks.chaos.processes import Process

_STATES: tuple[tuple[Role, str], ...] = (
    ("learner", "starting"),
    ("learner", "learning"),
    ("learner", "push"),
    ("rollout", "load"),
    ("learner", "checkpoint"),
    ("rollout", "sampling"),
    ("reward", "scoring"),
)


def run_states(processes: Sequence[Process]) -> list[str]:
    """All that the run is doing at once, the shortest state first; "idle" if it is nothing.

    A commit is not among them, because it shows in no title.
    """
    doing: dict[Role | None, set[str]] = defaultdict(set)
    for process in processes:
        doing[process.role].add(process.doing)
    doing["learner"] = doing["learner"] or {"starting"}
    return [state for role, state in _STATES if state in doing[role]] or ["idle"]
