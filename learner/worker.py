"""The Ray actor of a learner rank: fetches groups from the object store and forwards calls.

Failure policy: an exception ends the call, not the process. A rank whose peer has died raises from
its collective. ``orchestrator.workers.learner_group`` decides what follows.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from learner.push import Push
from learner.rank_settings import LearnerSettings, Place
from learner.shares import GroupSlice
from policy.receipt import WeightReceipt
from policy.runtime import (
    FAST_COPIES,
    quick_imports,
    release_cached_memory,
    tune_process,
    use_expandable_segments,
)
from policy.slots import TensorSlot

if TYPE_CHECKING:  # they import torch and DeepSpeed, which only the rank's process needs
    from learner.rank import LearnerRank
    from policy.weights import Bucket

LOOPBACK = "127.0.0.1"


class LearnerWorker:
    """One ``LearnerRank`` in a process of its own.

    Ray does not restart it when it dies, because a single rank cannot rejoin its group.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        # Nothing that takes time: Ray does not end an actor that is stopped in its constructor.
        self._settings = settings
        self._rank: LearnerRank | None = None
        self._push: Push | None = None

    def host(self) -> str:
        """IP address of this rank's machine."""
        return str(ray.util.get_node_ip_address())

    def place_of_rank_0(self, *hosts: str) -> Place:
        """Where the ranks meet, asked of rank 0 after ``prepare``.

        ``hosts`` are the machines of all ranks. Nobody holds the port until the ranks join, which
        must follow soon. Ranks on one machine meet on its loopback address, which no other machine
        can reach. If all addresses are loopback ones, the hosts of the cluster are one machine.
        """
        one_machine = len(set(hosts)) == 1 or all(ip_address(host).is_loopback for host in hosts)
        host = LOOPBACK if one_machine else hosts[0]
        port = self._settings.learner.rendezvous_port or _free_port(host)
        return Place(0, len(hosts), host, port, one_machine)

    def prepare(self) -> None:
        """Load the libraries, which takes seconds."""
        self.tune()
        with quick_imports():
            import learner.rank  # noqa: F401

    def tune(self) -> None:
        """Set up the process; nothing may have imported torch before."""
        if self._settings.learner.device == "cuda":
            use_expandable_segments()
        tune_process(self._settings.threads, self._settings.deterministic)

    def join(self, rank: int, first: Place) -> None:
        """Load the model and enter the group as ``rank``; returns when every rank has.

        ``first`` is the place of rank 0.
        """
        from learner.rank import LearnerRank

        self._rank = LearnerRank(self._settings, replace(first, rank=rank))
        self._share_memory()

    def update(self, slices: Sequence[GroupSlice], timeout_s: float) -> dict[str, float]:
        """See ``LearnerRank.update``. Groups that are references are fetched in ``timeout_s``."""
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
        self._share_memory()
        return row

    # A push: ``begin_push``, ``push_buckets`` for each parcel of rank 0, ``end_push``. A parcel is
    # the answer to a call of its own. Its reference is known when the call is made, so rollout
    # workers can wait for a parcel that is not there yet.

    def begin_push(self) -> tuple[int, tuple[TensorSlot, ...], list[int]]:
        """The weight version, what the buckets of rank 0 will hold, and how many of them each
        parcel has."""
        from policy.weights import parcels

        self._push = Push(self._joined.publish())
        slots = self._joined.slots()
        return self._joined.weight_version, slots, parcels(slots)

    @ray.method(num_returns=2)
    def push_buckets(self, count: int) -> tuple[list[Bucket], None]:
        """A parcel of the next buckets, and None. Ray copies the parcel into the object store
        before the next call begins. If it cannot, the small None fails as well, for whoever waits
        without the parcel."""
        return self._begun.buckets(count), None

    def end_push(self) -> WeightReceipt:
        """The receipt of the weights; every rank must be asked for it."""
        receipt = self._begun.receipt()
        self._share_memory()
        return receipt

    def save(self, folder: Path) -> None:
        self._joined.save(folder)
        self._share_memory()

    def load(self, folder: Path) -> int:
        """See ``LearnerRank.load``; returns the weight version of the checkpoint."""
        self._joined.load(folder)
        self._share_memory()
        return self._joined.weight_version

    def _share_memory(self) -> None:
        """Give cached memory back: another worker on the GPU may need it next."""
        if self._settings.learner.shares_gpu:
            release_cached_memory()

    @property
    def _joined(self) -> LearnerRank:
        if self._rank is None:
            raise RuntimeError("the rank has not joined its group")
        return self._rank

    @property
    def _begun(self) -> Push:
        if self._push is None:
            raise RuntimeError("no push has begun")
        return self._push


def start_learner_worker(settings: LearnerSettings, place: Any = None) -> Any:
    """An actor handle on a ``LearnerWorker``; returns before the worker is ready.

    ``place`` is a scheduling strategy of Ray. Without one, Ray chooses the host.
    """
    config = settings.learner
    threads = str(settings.threads)
    # Libraries read these variables while they are imported.
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # A thread without work sleeps. It would otherwise take a core from other processes while
        # it waits, and two threads on a busy machine were slower than one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": config.device,
        **FAST_COPIES,
    }
    actor = ray.remote(LearnerWorker).options(
        num_cpus=config.cpus_per_rank,
        num_gpus=config.gpus_per_rank,
        resources=config.resources,
        scheduling_strategy=place,
        max_restarts=0,
        runtime_env={"env_vars": variables},
    )
    return actor.remote(settings)


def _is_reference(part: GroupSlice) -> bool:
    return isinstance(part.source.group, ray.ObjectRef)


def _free_port(host: str) -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
