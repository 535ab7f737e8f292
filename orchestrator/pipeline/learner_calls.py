"""Calls to the learner, which run in the background while the other stages go on.

Failure policy: a learner rank that dies, raises or is late makes the whole group unusable, because
the other ranks wait for it in a collective. The call then raises ``LearnerLost``, and
``Run.recover`` forms a new group. A GPU that is too small for the same step twice ends the run,
because it would be too small again. Bad input (``UserError``), a file that cannot be written
(``NotWritten``), such as on a full disk, and a newer driver (``Superseded``) stop the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.ledger import Superseded
from policy.disk import NotWritten
from policy.errors import RunFailed

Result = TypeVar("Result")

# What the message has of torch's error, see ``orchestrator.workers.waiting.failure_of``.
_NO_MEMORY = " failed: OutOfMemoryError"


class LearnerLost(RunFailed):
    """The learner group cannot be used any more; its last weights are those of a checkpoint.

    ``no_memory`` says that a rank found too little memory on its GPU.
    """

    def __init__(self, text: str, no_memory: bool = False) -> None:
        super().__init__(text)
        self.no_memory = no_memory


def learner_call(call: Callable[[], Result], name: str) -> Background[Result]:
    """Begin a call to the learner; its result raises ``LearnerLost`` if the group failed."""

    def guarded() -> Result:
        try:
            return call()
        except (NotWritten, Superseded):
            raise
        except RunFailed as failure:
            no_memory = _NO_MEMORY in str(failure)
            raise LearnerLost(str(failure), no_memory) from failure

    return Background(guarded, name)
