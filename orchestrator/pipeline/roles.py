"""The roles of a run as the pipeline sees them: whoever has these methods can play the role.

The pools of ``orchestrator.workers`` play them in a real run. This room names no Ray, so that the
order of the algorithm can also be run on workers that are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from learner.micro_batches import TrainingGroup
from policy.sampling import Sampling
from policy.types import Group
from rewards.scored_group import ScoredGroup
from rollout.engine import GenerationRequest

if TYPE_CHECKING:
    from orchestrator.workers.reward_pool import Usage
    from orchestrator.workers.rollout_pool import GroupRef


class Rollout(Protocol):
    """Samples groups of trajectories. The groups stay in the object store."""

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[GroupRef]:
        """One group for each request, in order."""
        ...

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        """The groups themselves, with their images."""
        ...

    def asleep(self) -> AbstractContextManager[None]:
        """While the context is open, the workers leave their GPUs to others, if the settings ask
        for it."""
        ...


class Rewards(Protocol):
    """Scores groups with every reward of the run."""

    def score(self, groups: Sequence[GroupRef], remember: bool) -> list[ScoredGroup]:
        """One scored group for each group, in order; ``remember`` uses the score cache."""
        ...

    def take_usage(self) -> dict[str, Usage]:
        """What each reward's workers have done since the last call."""
        ...


class Learner(Protocol):
    """Owns the weights that are trained."""

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """One optimizer step on the batch; returns its metrics."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...


class Publisher(Protocol):
    """Carries the learner's weights to every rollout worker."""

    def publish(self, weight_version: int) -> float | None:
        """Returns once every worker has proved that it serves this version: the largest
        difference between a worker's probe and the learner's, in nats. It is None without a
        learner."""
        ...


class GroupStore(Protocol):
    """Moves groups between the object store and files."""

    def write(self, files: Sequence[Path], groups: Sequence[GroupRef]) -> list[str]:
        """Write each group to its file; returns the SHA-256 of every file, in order."""
        ...

    def read(self, files: Sequence[Path], digests: Sequence[str]) -> list[GroupRef]:
        """Read each file, which must have its SHA-256, into the object store."""
        ...
