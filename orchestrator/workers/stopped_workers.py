"""Notices workers that are stopped (SIGSTOP) within seconds, long before a call is late.

A thread of the driver looks at the workers of its own host. On every other host that has workers a
``Lookout`` does. It answers only when something has changed, so that nothing is sent while nothing
happens. What counts as stopped, and why a loaded machine raises no false alarm, is in
``policy.stopped``. The pools read ``WorkerPool.stopped``, and treat a stopped worker as one whose
call is late.

Failure policy: Ray starts a lookout again whose process dies. Workers of a host whose lookout is
itself stopped, or lost with the host, are noticed at the deadlines of their calls.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.workers.last_words import Whereabouts, words_of_this_host
from policy.stopped import EVERY_S, Looks

if TYPE_CHECKING:  # a lookout imports this module too, and needs no settings
    from orchestrator.workers.worker_pool import WorkerPool

log = logging.getLogger("eg_grpo")

_JOIN_S = 5.0


class HostLooks:
    """Looks at workers of this host again and again."""

    def __init__(self) -> None:
        self._looks = Looks()
        self._words: dict[Whereabouts, str] = {}

    def stopped(self, workers: Iterable[Whereabouts]) -> dict[Whereabouts, str]:
        """Look once: the stopped ones, with a line about each process."""
        by_pid = {worker.pid: worker for worker in workers}
        stopped = [by_pid[pid] for pid in self._looks.stopped(by_pid)]
        self._words = {
            worker: self._words.get(worker) or words_of_this_host(worker) for worker in stopped
        }
        return self._words


class Lookout:
    """The actor that looks at the workers of another host."""

    def __init__(self) -> None:
        self._host = HostLooks()
        self._newest = 0

    async def changed(
        self, workers: Set[Whereabouts], known: Set[Whereabouts]
    ) -> Mapping[Whereabouts, str]:
        """The stopped ones of the workers, as soon as they are others than ``known``.

        A newer call ends this one.
        """
        self._newest += 1
        this = self._newest
        while this == self._newest:
            stopped = self._host.stopped(workers)
            if stopped.keys() != known:
                return stopped
            await asyncio.sleep(EVERY_S)
        return {}

    async def end_call(self) -> None:
        """End the call of ``changed`` that waits, so that Ray need not report it as lost."""
        self._newest += 1


@dataclass
class _OtherHost:
    lookout: Any
    workers: Set[Whereabouts] = frozenset()  # that the lookout was asked about last
    call: ray.ObjectRef | None = None
    stopped: Mapping[Whereabouts, str] = field(default_factory=dict)
    lost: bool = False


class StoppedWorkers:
    """Tells pools which of their workers are stopped; see ``watch_for_stopped_workers``."""

    def __init__(self) -> None:
        self._pools: list[WorkerPool] = []
        self._here = ray.get_runtime_context().get_node_id()
        self._this_host = HostLooks()
        self._others: dict[str, _OtherHost] = {}  # by node id
        # Where a worker runs, by its pool's reference; None if it never told.
        self._told: dict[ray.ObjectRef, Whereabouts | None] = {}

    def over(self, *pools: WorkerPool) -> None:
        """Watch the workers of these pools too, each until it is closed."""
        self._pools += pools

    def look(self) -> None:
        """Look once at all workers that run."""
        for pool in list(self._pools):
            if not pool.workers:
                self._pools.remove(pool)
        pools = {pool: list(pool.running) for pool in list(self._pools)}
        self._hear_where([ref for refs in pools.values() for ref in refs])
        by_node: dict[str, set[Whereabouts]] = {}
        for where in self._told.values():
            if where is not None:
                by_node.setdefault(where.node_id, set()).add(where)
        stopped = self._this_host.stopped(by_node.pop(self._here, ()))
        stopped = {**stopped, **self._on_other_hosts(by_node)}
        for pool, refs in pools.items():
            told = ((ref, self._told.get(ref)) for ref in refs)
            pool.stopped = {ref: stopped[where] for ref, where in told if where in stopped}

    def close(self) -> None:
        """End the lookouts, and before them their calls."""
        hosts = [host for host in self._others.values() if not host.lost]
        ends = [host.lookout.end_call.remote() for host in hosts]
        calls = [host.call for host in hosts if host.call is not None]
        if ends:
            ray.wait(ends + calls, num_returns=len(ends + calls), timeout=_JOIN_S)
        for host in self._others.values():
            ray.kill(host.lookout)

    def _hear_where(self, running: list[ray.ObjectRef]) -> None:
        new = [ref for ref in running if ref not in self._told]
        told = {ref: self._told[ref] for ref in running if ref in self._told}
        if new:
            there, _ = ray.wait(new, num_returns=len(new), timeout=0)
            for ref in there:
                try:
                    told[ref] = ray.get(ref, timeout=0)
                except GetTimeoutError:  # the answer has left this machine's memory: it comes again
                    continue
                except RayError:
                    told[ref] = None
        self._told = told

    def _on_other_hosts(self, by_node: Mapping[str, Set[Whereabouts]]) -> dict[Whereabouts, str]:
        for node_id in by_node.keys() - self._others.keys():
            self._others[node_id] = _OtherHost(_started(node_id))
        self._take_answers()
        stopped: dict[Whereabouts, str] = {}
        for node_id, workers in by_node.items():
            host = self._others[node_id]
            if host.lost:
                continue
            if host.call is None or host.workers != workers:
                known = frozenset(host.stopped.keys() & workers)
                host.workers = workers
                host.call = host.lookout.changed.remote(workers, known)
            stopped |= {
                worker: words for worker, words in host.stopped.items() if worker in workers
            }
        return stopped

    def _take_answers(self) -> None:
        calls = {host.call: host for host in self._others.values() if host.call is not None}
        if not calls:
            return
        answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in answered:
            host = calls[call]
            host.call = None
            try:
                host.stopped = ray.get(call, timeout=0)
            except RayError as error:  # Ray could not start the lookout again: the host is lost
                log.debug("lookout: %s", error)
                host.stopped, host.lost = {}, True


@contextmanager
def watch_for_stopped_workers() -> Iterator[StoppedWorkers]:
    """Look at the workers of pools twice a second as long as the context lasts."""
    watch, done = StoppedWorkers(), threading.Event()

    def look() -> None:
        failing = False
        while not done.wait(EVERY_S):
            try:
                watch.look()
                failing = False
            except Exception:  # the next look may succeed; without any, deadlines are left
                if not failing:
                    log.exception("looking for stopped workers failed; it is tried again")
                failing = True

    thread = threading.Thread(target=look, name="stopped workers", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join(_JOIN_S)
        watch.close()


def _started(node_id: str) -> Any:
    """A lookout on this node. It asks for no CPU, so that it never waits for one."""
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = ray.remote(Lookout).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=there
    )
    return actor.remote()
