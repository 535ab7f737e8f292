"""What the rollout pool tells the pipeline. These classes need no Ray.

A worker's name is that of its process: the one that replaces a lost worker has another name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policy.receipt import WeightReceipt
from policy.types import Prompt

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class GroupRef:
    """A group in the object store. This process holds only the reference."""

    prompt: Prompt
    ref: ray.ObjectRef
    size: int  # trajectories in it


@dataclass(frozen=True)
class WorkerUp:
    """The worker has loaded its model and serves no published weights yet."""

    worker: str


@dataclass(frozen=True)
class WeightsLoaded:
    """The worker has loaded published weights; the receipt must still be checked."""

    worker: str
    receipt: WeightReceipt


@dataclass(frozen=True)
class WeightsLost:
    """The machine that held the published weights is gone. The worker is well and waits."""

    worker: str
    weight_version: int
    reason: str


@dataclass(frozen=True)
class BatchSampled:
    """The groups that the worker was asked for, in the order of the requests."""

    worker: str
    groups: list[GroupRef]


@dataclass(frozen=True)
class WorkerLost:
    """The worker died, raised or was late. It is killed, and nothing that it says is heard."""

    worker: str
    reason: str


@dataclass(frozen=True)
class WorkerLeaves:
    """The worker is one too many. It may finish its batch, and gets no other."""

    worker: str


RolloutEvent = WorkerUp | WeightsLoaded | WeightsLost | BatchSampled | WorkerLost | WorkerLeaves
