"""Writes into the ledger what every worker does, for readers such as ``eg-grpo status``.

The notes are also the driver's sign of life: the ledger gives each of them its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_view import ScalingEntry, WorkerEntry
from orchestrator.pipeline.roles import Rewards, Rollout
from orchestrator.pipeline.schedule import Schedule

_EVERY_S = 1.0
# More workers than this are noted more rarely, so that it costs little of a core. They are noted
# often enough for other machines to see that the driver lives.
_WORKERS_A_SECOND, _RAREST_S = 100, 5.0


class WorkerNotes:
    """Knows the workers of all roles. One write has all of them, once a second, and if they are
    many more rarely."""

    def __init__(
        self,
        schedule: Schedule,
        rollout: Rollout,
        rewards: Rewards,
        ledger: Ledger,
        ranks: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ranks`` is the number of learner ranks, until somebody sets another one; ``monotonic``
        gives the time in seconds."""
        self._schedule, self._rollout, self._rewards = schedule, rollout, rewards
        self.ranks = ranks
        self._ledger, self._monotonic = ledger, monotonic
        self._calls: list[Background[Any]] = []
        # Each is told the role and the state of every worker whenever the notes are written.
        self.listeners: list[Callable[[list[tuple[str, str]]], None]] = []
        self._due_at = -math.inf

    def watch(self, call: Background[Any]) -> None:
        """The learner is busy with this call until it is done.

        A call that is over is not kept until somebody asks what the learner does: groups that it
        was called with, and weights that it returned, would stay in the object store for as long.
        """
        self._calls = [one for one in self._calls if not one.done]
        if call not in self._calls:
            self._calls.append(call)

    @property
    def learner_state(self) -> str:
        """What the learner does at the moment."""
        self._calls = [call for call in self._calls if not call.done]
        return ", ".join(call.name for call in self._calls) or "idle"

    def note(self) -> list[ScalingEntry] | None:
        """Write the notes if the last ones are old enough; otherwise return None.

        Returns the wishes for other numbers of workers that wait for an answer.
        """
        now = self._monotonic()
        if now < self._due_at:
            return None
        entries = self._entries()
        pause_s = min(_RAREST_S, len(entries) / _WORKERS_A_SECOND)
        self._due_at = now + max(_EVERY_S, pause_s)
        for hear in self.listeners:
            hear([(entry.role, entry.state) for entry in entries])
        return self._ledger.note_workers(entries)

    def _entries(self) -> list[WorkerEntry]:
        learner, version = self.learner_state, self._schedule.step
        return [
            *(
                WorkerEntry(name, "rollout", state, self._schedule.serves(name))
                for name, state in self._rollout.states.items()
            ),
            *(
                WorkerEntry(name, "reward", state, -1)
                for name, state in self._rewards.states.items()
            ),
            *(
                WorkerEntry(f"learner rank {rank}", "learner", learner, version)
                for rank in range(self.ranks)
            ),
        ]
