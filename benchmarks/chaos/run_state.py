"""What a run is doing at the moment, as the titles of its workers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.chaos.plan import Role
from benchmarks.chaos.processes import Process

# A learner that has learned so shortly ago, and does nothing, waits for the commit of the step. The
# titles are read more often than this while a fault waits for a state.
_COMMIT_S = 0.02
_STATES: tuple[tuple[Role, str], ...] = (
    ("learner", "starting"),
    ("learner", "learning"),
    ("learner", "push"),
    ("rollout", "load"),
    ("learner", "checkpoint"),
    ("rollout", "sampling"),
    ("reward", "scoring"),
)


class RunState:
    """Remembers when the learner was seen learning, because a commit shows in no title."""

    def __init__(self) -> None:
        self._learning_at = float("-inf")

    def look(self, processes: Sequence[Process], now: float) -> list[str]:
        """All that the run is doing at once, the shortest state first; "idle" if it is nothing.

        ``now`` is the monotonic time in seconds. A step is committed between its update and the
        push of its weights.
        """
        doing: dict[Role | None, set[str]] = defaultdict(set)
        for process in processes:
            doing[process.role].add(process.doing)
        learner = doing["learner"] = doing["learner"] or {"starting"}
        if "learning" in learner:
            self._learning_at = now
        found = [state for role, state in _STATES if state in doing[role]]
        if learner == {"idle"} and now - self._learning_at < _COMMIT_S:
            found.insert(0, "commit")
        return found or ["idle"]
