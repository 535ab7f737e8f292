"""Ray shell of a learner rank: it fetches groups from the object store and forwards calls.

Failure policy: an exception ends the call, not the process; a rank that lost a peer raises from
its collective. ``orchestrator.workers.learner_group`` decides what follows.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from learner.batch import GroupSlice
from learner.rank_settings import LearnerSettings, Place
from policy.probe import WeightReceipt
from policy.runtime import release_cached_memory, tune_process
from policy.weights import WeightBuckets

if TYPE_CHECKING:  # it imports DeepSpeed, which only the rank's process needs
    from learner.rank import LearnerRank


class LearnerWorker:
    """One ``LearnerRank`` in a process of its own. A lone rank cannot rejoin: never restarted."""

    def __init__(self, settings: LearnerSettings) -> None:
        tune_process(settings.learner.threads, settings.deterministic)
        self._settings = settings
        self._rank: LearnerRank | None = None

    def address(self) -> str:
        """IP address of this rank's machine."""
        return str(ray.util.get_node_ip_address())

    def free_port(self, host: str) -> int:
        """A TCP port of this machine that nobody listens on."""
        with socket.socket() as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])

    def join(self, place: Place) -> None:
        """Load the model and enter the group; returns when every rank has."""
        from learner.rank import LearnerRank

        self._rank = LearnerRank(self._settings, place)

    def update(self, slices: Sequence[GroupSlice], timeout_s: float) -> dict[str, float]:
        """See ``LearnerRank.update``; groups given as references are fetched here."""
        groups = ray.get(
            [part.source.group for part in slices if _is_reference(part)], timeout=timeout_s
        )
        fetched = iter(groups)
        local = [
            replace(part, source=replace(part.source, group=next(fetched)))
            if _is_reference(part)
            else part
            for part in slices
        ]
        row = self._joined.update(local)
        release_cached_memory()  # for a rollout worker that shares the GPU
        return row

    @ray.method(num_returns=2)
    def publish(self) -> tuple[WeightReceipt, WeightBuckets | None]:
        """Two objects, so that the receipt can be read without moving the weights."""
        return self._joined.publish()

    def save(self, folder: Path) -> None:
        self._joined.save(folder)

    def load(self, folder: Path) -> int:
        """Returns the weight version resumed from."""
        self._joined.load(folder)
        return self._joined.weight_version

    @property
    def _joined(self) -> LearnerRank:
        if self._rank is None:
            raise RuntimeError("the rank has not joined its group")
        return self._rank


def _is_reference(part: GroupSlice) -> bool:
    return isinstance(part.source.group, ray.ObjectRef)
