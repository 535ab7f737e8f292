"""The roles of a run as the pipeline sees them: whoever has these methods can play the role.

The pools of ``orchestrator.workers`` play them in a real run. This room names no Ray, so that the
order of the algorithm can also be run on workers that are simulated.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from learner.shares import TrainingGroup
from orchestrator.settings.resources import Resources
from orchestrator.workers.rollout_events import GroupRef, RolloutEvent
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, Prompt
from rewards.scored_group import ScoredGroup
from rollout.engine import GenerationRequest

if TYPE_CHECKING:
    from orchestrator.workers.learner_group import PublishedWeights
    from orchestrator.workers.reward_pool import Usage


class Pool(Protocol):
    """Workers whose calls are waited for together with those of other pools. Nothing blocks."""

    @property
    def states(self) -> Mapping[str, str]:
        """What each worker does at the moment, in one word, by the worker's name."""
        ...

    @property
    def calls(self) -> Sequence[Any]:
        """Calls whose answers the pool waits for."""
        ...

    @property
    def wake_at(self) -> float:
        """The monotonic time at which ``advance`` has something to do even if no answer comes."""
        ...

    def advance(self) -> None:
        """Give up calls that are late, replace workers, hand out work."""
        ...

    def receive(self, call: Any) -> None:
        """Take the answer of one of ``calls``, which is there."""
        ...


class Waiting(Protocol):
    """Waits for the answers of calls."""

    def __call__(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """The calls that are answered, once there is one; none after the timeout."""
        ...


class Scalable(Protocol):
    """Workers of one role, whose number may change."""

    @property
    def states(self) -> Mapping[str, str]:
        """What each worker does at the moment, in one word, by the worker's name."""
        ...

    @property
    def resources(self) -> Resources:
        """What one worker asks of Ray."""
        ...

    @property
    def size(self) -> int:
        """Workers that stay, with those that are lost and will be replaced."""
        ...

    @property
    def joined(self) -> int:
        """``size`` without the workers that were added and have not worked yet."""
        ...

    @property
    def settled(self) -> bool:
        """Whether no worker joins or leaves at the moment."""
        ...

    @property
    def idle(self) -> int:
        """Workers without work."""
        ...

    @property
    def queued(self) -> int:
        """Batches that wait in the pool for a worker."""
        ...

    def resize(self, size: int) -> None:
        """Have so many workers: start some, or let some leave."""
        ...

    def take_failed_starts(self) -> list[str]:
        """Why workers that were added could not begin to work, since the last call."""
        ...


class Rollout(Pool, Scalable, Protocol):
    """Samples groups of trajectories. The groups stay in the object store."""

    def bring(self, weights: PublishedWeights) -> None:
        """All of the weights are there: send them to the hosts of workers that still sample, so
        that loading them is short."""
        ...

    def load(self, worker: str, weights: PublishedWeights) -> None:
        """Have a worker load weights. Before ``bring`` they may still be on their way; nothing is
        heard of the worker then, until all of them are there."""
        ...

    def sample(
        self, worker: str, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> None:
        """Have a worker sample one group for each request."""
        ...

    def end(self, worker: str) -> None:
        """End a worker that leaves and has nothing left to do."""
        ...

    def take_events(self) -> list[RolloutEvent]:
        """What has happened since the last call, in order."""
        ...

    def discard(self, worker: str, reason: str) -> None:
        """Replace a worker that may not be used any more."""
        ...

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group] | None:
        """The groups themselves, with their images; None if one is lost with its machine."""
        ...

    def asleep(self) -> AbstractContextManager[None]:
        """While the context is open, the workers leave their GPUs to others, if the settings ask
        for it. When it ends with an error, they do so until ``wake``."""
        ...

    @property
    def starting(self) -> bool:
        """Whether a worker starts that must be up before the others leave their GPUs."""
        ...

    @property
    def sleeping(self) -> bool:
        """Whether the workers have left their GPUs to others."""
        ...

    def wake(self) -> None:
        """Have the workers take their GPUs again, if they have left them."""
        ...


class Rewards(Pool, Protocol):
    """Scores groups with every reward of the run."""

    @property
    def pools(self) -> Mapping[str, Scalable]:
        """The workers of each reward, by its name."""
        ...

    def begin(
        self,
        key: Hashable,
        prompts: Sequence[Prompt],
        size: int,
        remember: bool = False,
        counted: bool = True,
    ) -> None:
        """Begin to score one group of ``size`` trajectories for each prompt, as they are added."""
        ...

    def add(self, key: Hashable, place: int, group: GroupRef) -> None:
        """Score this group of ``key``."""
        ...

    def forget(self, key: Hashable, places: Sequence[int]) -> None:
        """These groups of ``key`` are lost, and will be added again."""
        ...

    def drop(self, key: Hashable, place: int) -> None:
        """This group of ``key`` will never be added."""
        ...

    def take_lost(self) -> list[tuple[Hashable, int]]:
        """Groups that were found to be gone since the last call: key and place."""
        ...

    def end(self, key: Hashable) -> None:
        """Forget the groups of ``key``."""
        ...

    def take_scored(self) -> list[tuple[Hashable, int, ScoredGroup]]:
        """Groups that every reward has scored since the last call: key, place and scores."""
        ...

    def take_failures(self) -> list[str]:
        """Why workers were replaced since the last call."""
        ...

    def take_usage(self) -> dict[str, Usage]:
        """What each reward's workers have done since the last call, for what is counted."""
        ...


class Learner(Protocol):
    """Owns the weights that are trained."""

    @property
    def ranks(self) -> int:
        """The number of its processes, which may differ from that of another group of the run."""
        ...

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """One optimizer step on the batch; returns its metrics."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...

    def close(self) -> None:
        """End the processes of the learner; a second call does nothing."""
        ...


class Publisher(Protocol):
    """Puts the learner's weights where rollout workers find them, and checks that they arrived."""

    def publish(self, learner: Any, weight_version: int) -> PublishedWeights:
        """The learner's weights, which every worker is to load. They may still be on their way."""
        ...

    def complete(self, learner: Any, weights: PublishedWeights) -> None:
        """Return when all of the weights can be loaded."""
        ...

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        """The gap in nats between a worker's probe and the learner's."""
        ...


class GroupStore(Protocol):
    """Moves groups between the object store and files."""

    def write(self, files: Sequence[Path], groups: Sequence[GroupRef]) -> list[str]:
        """Write each group to its file; returns the SHA-256 of every file, in order."""
        ...

    def read(self, files: Sequence[Path], digests: Sequence[str]) -> list[GroupRef]:
        """Read each file, which must have its SHA-256, into the object store."""
        ...
