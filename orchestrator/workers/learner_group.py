"""The learner as the orchestrator sees it: some ranks that act as one.

Failure policy: every wait has a deadline. A silent rank raises ``LearnerTimeout``, a dead one
``LearnerRankDied``, a failing or lost one ``LearnerFailed``; each names the rank. After any of them
the group is beyond use: ``close``, build another and ``load`` the latest checkpoint. Bad input
(``UserError``) leaves it usable. Answers are taken as they come: the first failure is heard first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from learner.batch import TrainingGroup, split_over_ranks
from learner.rank_settings import LearnerSettings, Place
from learner.worker import LearnerWorker
from policy.errors import RunFailed, UserError
from policy.probe import WeightReceipt

log = logging.getLogger("eg_grpo")

LOOPBACK = "127.0.0.1"
_PEER_GRACE_S = 10.0  # a dead rank is reported a little after its peers' collectives fail


class LearnerFailed(RunFailed):
    """A rank raised, or Ray lost it or its answer; the message names rank and reason."""


class LearnerRankDied(LearnerFailed):
    """A rank's process is gone."""


class LearnerTimeout(LearnerFailed):
    """Ranks did not answer within the deadline."""


@dataclass(frozen=True)
class PublishedWeights:
    """One weight version. The caller owns ``buckets``: they outlive the learner."""

    receipt: WeightReceipt  # what every rollout worker must answer
    buckets: ray.ObjectRef  # of WeightBuckets
    other_ranks: tuple[WeightReceipt, ...]  # of ranks 1, 2, ...: the same probe, no checksum


class LearnerGroup:
    """``settings.learner.ranks`` learner ranks as Ray actors."""

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self._config = settings.learner
        self._workers: list[Any] = []
        self.weight_version = 0

    def start(self) -> None:
        """Start the ranks and let them load and meet; returns when all are ready."""
        config = self._config
        options = dict(
            num_cpus=config.cpus_per_rank,
            num_gpus=config.gpus_per_rank,
            runtime_env={"env_vars": self._environment()},
        )
        remote_class: Any = ray.remote(LearnerWorker)
        self._workers = [
            remote_class.options(**options).remote(self._settings) for _ in range(config.ranks)
        ]
        limit_s = config.start_timeout_s
        deadline = time.monotonic() + limit_s
        hosts = self._wait([worker.address.remote() for worker in self._workers], limit_s, deadline)
        one_machine = len(set(hosts)) == 1
        host = LOOPBACK if one_machine else hosts[0]
        port = (
            config.rendezvous_port
            or (self._wait([self._workers[0].free_port.remote(host)], limit_s, deadline)[0])
        )
        self._wait(
            [
                worker.join.remote(Place(rank, config.ranks, host, port, one_machine))
                for rank, worker in enumerate(self._workers)
            ],
            limit_s,
            deadline,
        )

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """One optimizer step on the surviving trajectories; a metrics row.

        Raises ValueError when no trajectory survived.
        """
        if not any(a is not None for group in batch for a in group.advantages):
            raise ValueError("the batch holds no trajectory to train on")
        shares = split_over_ranks(batch, len(self._workers))
        rows = self._call(
            [
                worker.update.remote(share, self._config.timeout_s)
                for worker, share in zip(self._workers, shares, strict=True)
            ]
        )
        self.weight_version += 1
        return rows[0]

    def publish(self) -> PublishedWeights:
        """The trained part as it stands. The weights themselves never pass through the caller."""
        refs = [worker.publish.remote() for worker in self._workers]
        receipts = self._call([receipt for receipt, _ in refs])
        return PublishedWeights(receipts[0], refs[0][1], tuple(receipts[1:]))

    def save(self, folder: Path) -> None:
        """Write a checkpoint; whole only when this returns."""
        self._call([worker.save.remote(folder.absolute()) for worker in self._workers])

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint; raises ``UserError`` when it is damaged or does not fit."""
        versions = self._call([worker.load.remote(folder.absolute()) for worker in self._workers])
        self.weight_version = versions[0]

    def close(self) -> None:
        """End the ranks' processes; published weights stay. Again, it does nothing."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []

    def _call(self, refs: Sequence[ray.ObjectRef]) -> list[Any]:
        if not self._workers:
            raise RuntimeError("the learner group was not started")
        limit_s = self._config.timeout_s
        return self._wait(refs, limit_s, time.monotonic() + limit_s)

    def _wait(self, refs: Sequence[ray.ObjectRef], limit_s: float, deadline: float) -> list[Any]:
        """Results in order of rank; ``refs[i]`` is a call to rank i. ``limit_s`` is what a late
        rank was given until ``deadline``."""
        results: dict[int, Any] = {}
        pending = {ref: rank for rank, ref in enumerate(refs)}
        failure: LearnerFailed | None = None
        while pending:
            left = max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(pending), timeout=left)
            if not done:
                break
            rank = pending.pop(done[0])
            try:
                results[rank] = ray.get(done[0])
            except RayActorError as error:
                if failure is not None:
                    log.warning("%s", failure)
                raise LearnerRankDied(f"learner rank {rank} died: {_one_line(error)}") from error
            except RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                # Perhaps only the echo of another rank's death, which says more.
                failed = LearnerFailed(f"learner rank {rank} failed: {_one_line(error.cause)}")
                if failure is None:
                    failure, deadline = failed, min(deadline, time.monotonic() + _PEER_GRACE_S)
                else:
                    log.warning("%s", failed)
            except RayError as error:  # its environment, its memory, its node, its answer
                raise LearnerFailed(f"learner rank {rank} is lost: {_one_line(error)}") from error
        if failure is not None:
            raise failure
        if pending:
            silent = ", ".join(map(str, sorted(pending.values())))
            raise LearnerTimeout(f"learner rank {silent} did not answer within {limit_s:g} s")
        return [results[rank] for rank in range(len(refs))]

    def _environment(self) -> dict[str, str]:
        """Variables that libraries read while they are imported."""
        threads = str(self._config.threads)
        return {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "DS_ACCELERATOR": self._config.device,
        }


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
