"""The learner of a run that only samples, scores and keeps trajectories (``stages: rollout``).

There is no learner rank. The rollout workers serve the weights of the checkpoint that the run
starts from, which is version 0 at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learner.micro_batches import TrainingGroup


class IdleLearner:
    """Plays the role ``Learner`` and learns nothing."""

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """Make no update. The row has no metrics of an update and says that no weights are new."""
        return {"weight_version": 0}

    def save(self, folder: Path) -> None:
        """Write nothing, because nothing was trained. Such a run cannot be resumed."""


class IdlePublisher:
    """Plays the role ``Publisher``: the rollout workers have the weights already."""

    def publish(self, weight_version: int) -> None:
        """Send nothing. There is no probe of a learner to compare with."""
