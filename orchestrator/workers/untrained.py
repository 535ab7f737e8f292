"""The workers of a run that samples and scores but trains nothing (``stages: rollout``).

There is no learner rank and nothing is published. Each rollout worker serves the checkpoint that it
loads when it starts, and so does a worker that takes the place of a lost one. The trajectories say
weight version 0 at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from learner.micro_batches import TrainingGroup
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.rollout_events import WeightsLoaded
from orchestrator.workers.rollout_pool import RolloutPool
from policy.probe import WeightReceipt


class UntrainedRolloutPool(RolloutPool):
    """Rollout workers that always serve the checkpoint they have loaded."""

    def load(self, worker: str, weights: PublishedWeights) -> None:
        """Send nothing: the worker has the weights already. ``WeightsLoaded`` is there at once."""
        self._events.append(WeightsLoaded(worker, weights.receipt))


class IdleLearner:
    """Plays the role ``Learner`` and learns nothing."""

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """Make no update. The row has no metrics of an update and says that no weights are new."""
        return {"weight_version": 0}

    def save(self, folder: Path) -> None:
        """Write nothing, because nothing was trained. Such a run cannot be resumed."""


class IdlePublisher:
    """Plays the role ``Publisher`` for an ``IdleLearner``."""

    def publish(self, learner: Any, weight_version: int) -> PublishedWeights:
        """No weights, under a version by which the schedule counts the steps."""
        receipt = WeightReceipt(weight_version, "", np.zeros(0, dtype=np.float32))
        return PublishedWeights(receipt, ray.ObjectRef.nil(), ())

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """There is no learner from which the worker could differ."""
        return 0.0
