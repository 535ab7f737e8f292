"""The learner of a run that samples and scores but trains nothing (``stages: rollout``).

There is no learner rank. Each rollout worker serves the checkpoint that it loads when it starts,
and so does a worker that takes the place of a lost one. The trajectories say weight version 0 at
every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learner.shares import TrainingGroup


class IdleLearner:
    """Plays the role ``Learner`` and learns nothing."""

    ranks = 0

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """Make no update. The row has no metrics of an update and says that no weights are new."""
        return {"weight_version": 0}

    def save(self, folder: Path) -> None:
        """Write nothing, because nothing was trained: the run goes on from what it has kept."""

    def close(self) -> None:
        """Do nothing: it has no processes."""
