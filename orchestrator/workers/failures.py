"""How workers of a run fail. Nothing here names Ray, so that the pipeline can tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policy.disk import NotWritten
from policy.errors import RunFailed


class WorkerFailed(RunFailed):
    """A worker cannot go on; the message names it. This class itself: the worker raised an error.

    A pool that replaces its workers goes on without this one. A learner group is beyond use.
    """


class WorkerDied(WorkerFailed):
    """Ray lost a worker, or could not start it, or lost its answer."""


class WorkerNotStarted(WorkerDied):
    """Ray could not prepare a worker's packages; it could not for a worker in its place either."""


class ObjectLost(WorkerDied):
    """An object is gone because its machine is: an answer, or what a call was to work on."""

    def __init__(self, name: str, reason: str, object_hex: str) -> None:
        """``object_hex`` is the ``hex()`` of the object's reference."""
        super().__init__(f"the answer of {name} is lost: {reason}")
        self.object_hex = object_hex


class WorkerNotWritten(WorkerFailed, NotWritten):
    """A worker could not write a file; a worker in its place could not either."""


class WorkerStopped(WorkerFailed):
    """Workers are stopped (SIGSTOP), so that they will not answer."""

    def __init__(self, seen: Mapping[str, str]) -> None:
        """``seen`` has a line about the process of each, by the worker's name."""
        self.seen = dict(seen)
        who, words = ", ".join(self.seen), "; ".join(self.seen.values())
        one = len(self.seen) == 1
        super().__init__(
            f"{who} does not answer: {words}" if one else f"{who} do not answer: {words}"
        )


class WorkerLate(WorkerFailed):
    """Workers did not answer within the deadline."""

    def __init__(self, names: Sequence[str], timeout_s: float, seen: Sequence[str] = ()) -> None:
        """``seen`` has what is known of the workers' processes."""
        self.names, self.timeout_s = tuple(names), timeout_s
        known = f": {'; '.join(seen)}" if seen else ""
        super().__init__(f"{', '.join(names)} did not answer within {timeout_s:g} s{known}")
