"""Calls to the learner, which run in the background while the other stages go on.

Failure policy: a learner rank that dies, raises or is late makes the whole group unusable, because
the other ranks wait for it in a collective. The call then raises ``LearnerLost``, and
``Run.recover`` forms a new group. An error that a rank raises twice in the same step ends the run,
because it would come again. Bad input (``UserError``), a file that cannot be written
(``NotWritten``), such as on a full disk, and a newer driver (``Superseded``) stop the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.ledger import Superseded
from orchestrator.workers.failures import WorkerFailed
from policy.disk import NotWritten
from policy.errors import RunFailed

Result = TypeVar("Result")


class LearnerLost(RunFailed):
    """The learner group cannot be used any more; its last weights are those of a checkpoint.

    ``raised`` says that a rank raised an error, such as of a GPU without memory. It was neither
    killed nor late.
    """

    def __init__(self, text: str, raised: bool = False) -> None:
        super().__init__(text)
        self.raised = raised


def learner_call(call: Callable[[], Result], name: str) -> Background[Result]:
    """Begin a call to the learner; its result raises ``LearnerLost`` if the group failed."""

    def guarded() -> Result:
        try:
            return call()
        except (NotWritten, Superseded):
            raise
        except RunFailed as failure:
            raise LearnerLost(str(failure), type(failure) is WorkerFailed) from failure

    return Background(guarded, name)
