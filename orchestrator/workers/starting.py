"""Waiting for actors to come up, and saying why one did not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.workers.waiting import WorkerFailed, WorkerLate, wait_all


@dataclass(frozen=True)
class Share:
    """What one actor of a pool asks of Ray."""

    cpus: float
    gpus: float
    installs: bool = False  # packages, before its process runs


class Starting:
    """The actors of a pool that were just created, and what each answers first, once it can
    work."""

    def __init__(
        self,
        actors: Sequence[Any],
        ask: Callable[[Any], ray.ObjectRef],
        names: Sequence[str],
        share: Share,
    ) -> None:
        """``ask`` calls an actor for the first time. Its constructor must be quick: what is slow
        belongs into that call."""
        # Before the slow call, for an actor answers in order: as soon as its process runs.
        self._placed = [actor.__ray_ready__.remote() for actor in actors]
        self.answers = [ask(actor) for actor in actors]
        self.names, self._share = names, share

    def check_processes(self, timeout_s: float) -> None:
        """Raise ``WorkerFailed`` for a worker whose process does not run at the end of the
        deadline, with what it asks for."""
        _, waiting = ray.wait(self._placed, num_returns=len(self._placed), timeout=0)
        if waiting:
            name = self.names[self._placed.index(waiting[0])]
            raise WorkerFailed(f"{name} {self._without_process(timeout_s)}")

    def _without_process(self, timeout_s: float) -> str:
        """What is said of a worker whose process does not run at the end of the deadline."""
        share, free = self._share, ray.available_resources()
        cpus, gpus = free.get("CPU", 0.0), free.get("GPU", 0.0)
        asks = (
            f"it asks for {share.cpus:g} CPUs and {share.gpus:g} GPUs,"
            f" of which {cpus:g} and {gpus:g} are free"
        )
        if cpus < share.cpus or gpus < share.gpus:
            return f"was given no place by Ray within {timeout_s:g} s: {asks}"
        installing = "; packages of its runtime_env may still be installing"
        return (
            f"did not start within {timeout_s:g} s: {asks} on all nodes together"
            f"{installing if share.installs else ''}"
        )


def wait_started(pools: Sequence[Starting], timeout_s: float) -> list[Any]:
    """The first answers of all actors, pool by pool in order, within one deadline.

    Raises ``WorkerFailed`` as soon as one fails in any pool; for a worker whose process does not
    run, with what it asks for.
    """
    answers = [answer for pool in pools for answer in pool.answers]
    try:
        return wait_all(answers, [name for pool in pools for name in pool.names], timeout_s)
    except WorkerLate:
        for pool in pools:
            pool.check_processes(timeout_s)
        raise
