"""The pool of learner ranks, as the pipeline sees it: ranks that act as one learner.

Failure policy: a rank that dies, raises, is late or is stopped (``stopped_workers``) raises
``WorkerFailed`` with its name. After that the group is beyond use, because the other ranks wait for
the lost one in a collective. The pipeline closes it and forms a new one from the last checkpoint.
Bad input (``UserError``) leaves the group usable. When a host is gone and no other one has room for
its ranks, ``wait_ready`` raises ``RanksWithoutPlace``. The places of the group are useless then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from learner.shares import TrainingGroup, split_over_ranks
from learner.worker import start_learner_worker
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.resources import Resources, learner_resources
from orchestrator.settings.run_config import RunConfig
from orchestrator.settings.worker_settings import learner_settings
from orchestrator.workers.failures import WorkerLate
from orchestrator.workers.placement import ANYWHERE, Places, free_text, hosts
from orchestrator.workers.waiting import wait_all
from orchestrator.workers.worker_pool import NO_PROCESS_S, WorkerPool, wait_loaded
from policy.errors import RunFailed
from policy.receipt import WeightReceipt

_LOOK_S = 1.0  # between two looks at the places of ranks that have no process yet
_MOVE_S = 5.0  # in which Ray has moved the places of a lost host, if there is room


@dataclass(frozen=True)
class PublishedWeights:
    """One weight version in the object store, or on its way there.

    The caller owns its objects. Those that are there outlive the learner.
    """

    weight_version: int
    # The slots of a WeightBuckets, and then its buckets in parcels. It is None if nothing is
    # trained: each rollout worker then serves the checkpoint that it started from.
    refs: tuple[ray.ObjectRef, ...] | None


class RanksWithoutPlace(RunFailed):
    """The hosts of some ranks are gone, and Ray finds no others for them."""

    def __init__(self, room: int, ranks: int, each: Resources) -> None:
        """There is room for ``room`` of ``ranks`` ranks that need ``each``."""
        super().__init__(
            f"a host of the learner is gone, and there is room for {room} of {ranks} ranks"
            f" ({each} each); free: {free_text(hosts(), [each])}"
        )


class LearnerGroup(WorkerPool):
    """Learner ranks that train one policy together: ``learner.ranks``, or fewer of them."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        places: Places = ANYWHERE,
        ranks: int | None = None,
    ) -> None:
        """``ranks`` of the ranks of the run start, by default all."""
        self.config = config.learner
        self._places = places
        # A place that is missing for longer is not waited for if there are enough others.
        self.patience_s = max(NO_PROCESS_S, config.cluster.wait_for_room_s)
        self.weight_version = 0
        self._receipts: list[ray.ObjectRef] = []
        self._stored: list[ray.ObjectRef] = []  # one for each parcel; fails if it is not stored
        settings = learner_settings(config, inputs)
        super().__init__(
            [f"learner rank {rank}" for rank in range(ranks or config.learner.ranks)],
            lambda name: start_learner_worker(settings, places.of(name)),
            _join,
            learner_resources(config),
            self.config.start_timeout_s,
        )

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return len(self.names)

    def wait_ready(self) -> None:
        """Block until every rank has loaded the model.

        Raises ``RanksWithoutPlace`` when Ray finds no place for the ranks of a lost host. With
        ``learner.min_ranks`` it is also raised when ranks have waited for a place, for
        ``cluster.wait_for_room_s`` but at least 20 s, and there is room for enough of them.
        """
        until = time.monotonic() + self._start_timeout_s
        if self._places.of(self.names[0]) is not None:
            self._wait_for_places(until)
        wait_loaded([self], max(1, math.ceil(until - time.monotonic())))

    def _wait_for_places(self, until: float) -> None:
        """Return when every rank has a process, or one has failed; see ``wait_ready``."""
        rank_0, fewest = self.names[0], self.config.fewest_ranks
        whole = time.monotonic()  # when all ranks had a place last
        self._look_at = dict.fromkeys(self.names, whole + NO_PROCESS_S)
        while missing := ray.wait(self.running, num_returns=self.ranks, timeout=_LOOK_S)[1]:
            if ray.wait(self._loaded, timeout=0)[0] or self.stopped_workers():
                return
            now = time.monotonic()
            if self._places.placed(rank_0):
                whole = now
                self._look_after_starts()
            elif now - whole >= _MOVE_S:
                room, lost = self._places.room(rank_0), self._places.lost(rank_0)
                if lost or (now - whole >= self.patience_s and fewest <= room < self.ranks):
                    raise RanksWithoutPlace(room, self.ranks, self.resources)
            if now >= until:
                late = [self.names[self.running.index(ref)] for ref in missing]
                raise self._explained(WorkerLate(late, self._start_timeout_s))

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """Make one optimizer step on the surviving trajectories; returns a metrics row.

        Raises ``ValueError`` when no trajectory survived.
        """
        if not any(a is not None for group in batch for a in group.advantages):
            raise ValueError("the batch holds no trajectory to train on")
        shares = split_over_ranks(batch, len(self.workers))
        rows = self._wait(
            [
                worker.update.remote(share, self.config.timeout_s)
                for worker, share in zip(self.workers, shares, strict=True)
            ]
        )
        self.weight_version += 1
        return rows[0]

    def publish(self) -> PublishedWeights:
        """Begin to put the trained weights into the object store; ``receipts`` waits for the end.

        They never pass through the caller.
        """
        begun = self._wait([worker.begin_push.remote() for worker in self.workers])
        version, slots, parcels = begun[0]
        calls = [self.workers[0].push_buckets.remote(count) for count in parcels]
        sent, self._stored = [call[0] for call in calls], [call[1] for call in calls]
        self._receipts = [worker.end_push.remote() for worker in self.workers]
        return PublishedWeights(version, (ray.put(slots), *sent))

    def receipts(self) -> list[WeightReceipt]:
        """The receipt of each rank, when all that ``publish`` began is in the object store.

        Every rollout worker must answer with the receipt of rank 0. Others have no checksum.
        """
        self._wait(self._stored, [self.names[0]] * len(self._stored))
        return self._wait(self._receipts)

    def save(self, folder: Path) -> None:
        """Write a checkpoint. It is complete only when this returns."""
        self._wait([worker.save.remote(folder.absolute()) for worker in self.workers])

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint; raises ``UserError`` when it is damaged or does not fit."""
        versions = self._wait([worker.load.remote(folder.absolute()) for worker in self.workers])
        self.weight_version = versions[0]

    def _wait(self, refs: Sequence[ray.ObjectRef], names: Sequence[str] | None = None) -> list[Any]:
        """The answers; ``names`` are those of the ranks that give them, by default of each rank."""
        try:
            return wait_all(
                refs,
                self.names if names is None else names,
                self.config.timeout_s,
                self.stopped_workers,
            )
        except WorkerLate as late:
            raise self._explained(late) from None


def _join(ranks: Sequence[Any]) -> list[ray.ObjectRef]:
    """Have the ranks find each other and load the model; rank 0 chooses where they meet."""
    hosts = [rank.host.remote() for rank in ranks]
    for rank in ranks:
        rank.prepare.remote()
    first = ranks[0].place_of_rank_0.remote(*hosts)
    return [worker.join.remote(rank, first) for rank, worker in enumerate(ranks)]
