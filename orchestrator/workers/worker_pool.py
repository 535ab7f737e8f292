"""What all pools of workers share: names, a start with a deadline, and an end.

``RolloutPool``, ``RewardPool`` and ``LearnerGroup`` are such pools. A constructor creates the
workers and returns at once. ``wait_ready`` blocks until they have loaded what they need. ``close``
ends their processes.

Failure policy: a worker that does not come up raises ``WorkerFailed``. If Ray has started no
process for it, the message says what the worker asks for and what is free. A warning says the same
after 20 s: the cluster may be full, and a machine that comes back would have room. A rollout or
reward worker whose process dies or misses the deadline while it loads is started again once. A
second time, or an error that the worker raises, ends the run: the settings are the likely cause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.settings.resources import Resources
from orchestrator.workers.failures import (
    WorkerDied,
    WorkerFailed,
    WorkerLate,
    WorkerNotStarted,
    WorkerStopped,
)
from orchestrator.workers.last_words import last_words, report_whereabouts
from orchestrator.workers.waiting import take_result, wait_all

log = logging.getLogger("eg_grpo")

NO_PROCESS_S = 20.0  # after which a worker without a process is told of
_LOOK_S = 5.0  # between two later looks at a worker without a process


class WorkerPool:
    """Workers of one kind: ``workers[i]`` is a Ray actor called ``names[i]``."""

    def __init__(
        self,
        names: Sequence[str],
        start_worker: Callable[[str], Any],
        load: Callable[[Sequence[Any]], list[ray.ObjectRef]],
        resources: Resources,
        start_timeout_s: float,
        restarts: int = 0,
    ) -> None:
        """Create the workers and call ``load`` with all of them.

        ``start_worker`` starts the worker that has a name, at the place reserved for this name.
        With ``restarts`` above 0 a worker that is lost while it loads is started again, once.

        ``load`` makes the first call to each worker. The call returns when the worker can work.
        Constructors of workers must be quick, or Ray's search for a place and slow loading could
        not be told apart.
        """
        self.names = list(names)
        self._start_worker = start_worker
        # When the pool looks next whether a worker that was started again has a process (monotonic
        # times), and the workers of which it has said that they have none.
        self._look_at: dict[str, float] = {}
        self._warned: set[str] = set()
        self.workers = [start_worker(name) for name in names]
        # The answers that say where each worker runs; ``running`` below makes the call.
        self.running = [running(worker) for worker in self.workers]
        # By those answers, a line about each worker that is stopped. The thread of
        # ``stopped_workers`` replaces the mapping, if it watches this pool.
        self.stopped: Mapping[ray.ObjectRef, str] = {}
        self._loaded = load(self.workers)
        self._start, self._load = start_worker, load
        self._replaceable = set(range(len(names))) if restarts else set()
        self.resources = resources
        self._start_timeout_s = start_timeout_s

    def wait_ready(self) -> None:
        """Block until every worker can work."""
        self._wait_loaded()

    def replace_dead(self) -> bool:
        """Start workers again that died while they loaded; False if there is none to start."""
        ended, _ = ray.wait(self._loaded, num_returns=len(self._loaded), timeout=0)
        replaced = False
        for index in sorted(self._replaceable):
            try:
                if self._loaded[index] in ended:
                    take_result(self._loaded[index], self.names[index])
            except WorkerDied as failure:
                if isinstance(failure, WorkerNotStarted):
                    continue
                self._replace_while_loading(index, failure)
                replaced = True
        return replaced

    def replace_late(self, late: WorkerLate) -> bool:
        """Start those of the late workers again that are of this pool; False if it may not.

        Such a worker may be frozen. Its process is killed.
        """
        return self._replace_those(
            late.names, lambda name: self._explained(WorkerLate([name], late.timeout_s))
        )

    def replace_stopped(self, stopped: WorkerStopped) -> bool:
        """Start those of the stopped workers again that are of this pool; False if it may not."""
        return self._replace_those(
            list(stopped.seen), lambda name: WorkerStopped({name: stopped.seen[name]})
        )

    def _replace_those(
        self, names: Sequence[str], failure_of: Callable[[str], WorkerFailed]
    ) -> bool:
        indices = [index for index, name in enumerate(self.names) if name in names]
        if not self._replaceable.issuperset(indices):
            return False
        for index in indices:
            self._replace_while_loading(index, failure_of(self.names[index]))
        return True

    def _replace_while_loading(self, index: int, failure: WorkerFailed) -> None:
        log.warning("%s; it is replaced", failure)
        self._replaceable.remove(index)
        ray.kill(self.workers[index])
        self.workers[index] = self._start(self.names[index])
        self.running[index] = running(self.workers[index])
        (self._loaded[index],) = self._load([self.workers[index]])
        self._replaced_while_loading(index, failure)

    def _replaced_while_loading(self, index: int, failure: WorkerFailed) -> None:
        """A hook for pools that count the workers they have lost."""

    def close(self) -> None:
        """End the workers' processes; a second call does nothing."""
        for worker in self.workers:
            ray.kill(worker)
        self.workers = []

    def stopped_workers(self, only: str | None = None) -> dict[str, str]:
        """A line about each worker that is stopped, by the worker's name; ``only`` asks for one."""
        stopped = self.stopped
        if not stopped:  # as nearly always
            return {}
        pairs = zip(self.names, self.running, strict=True)
        return {
            name: stopped[ref] for name, ref in pairs if ref in stopped and only in (None, name)
        }

    def _explained(self, late: WorkerLate) -> WorkerLate:
        """The error with what is known of the processes that did not answer."""
        return WorkerLate(late.names, late.timeout_s, self._seen(late))

    def _seen(self, late: WorkerLate) -> list[str]:
        """What is known of the processes of this pool that did not answer."""
        seen = []
        for name in late.names:
            if name not in self.names:
                continue
            answer = self.running[self.names.index(name)]
            try:
                seen.append(last_words(ray.get(answer, timeout=0)))
            except GetTimeoutError:
                seen.append(f"it {self._not_running(late.timeout_s)}")
            except RayError:
                continue
        return list(dict.fromkeys(seen))  # workers without a place all lack the same

    def _wait_loaded(self) -> list[Any]:
        return wait_loaded([self], self._start_timeout_s)

    def _start_again(self, index: int) -> Any:
        """Start a new worker in place of one that was killed; returns it."""
        self.workers[index] = worker = self._start_worker(self.names[index])
        self.running[index] = running(worker)
        self._look_at[self.names[index]] = time.monotonic() + NO_PROCESS_S
        self._warned.discard(self.names[index])
        return worker

    def _add(self, name: str) -> Any:
        """Start one more worker; returns it."""
        worker = self._start_worker(name)
        self.names.append(name)
        self.workers.append(worker)
        self.running.append(running(worker))
        self._look_at[name] = time.monotonic() + NO_PROCESS_S
        return worker

    def _remove(self, index: int) -> None:
        """End a worker for good; those after it move up."""
        ray.kill(self.workers[index])
        self._look_at.pop(self.names[index], None)
        del self.names[index], self.workers[index], self.running[index]

    def _look_after_starts(self) -> None:
        """See to workers that were started again 20 s ago and have no process yet."""
        now = time.monotonic()
        for name, due in list(self._look_at.items()):
            if now < due:
                continue
            index = self.names.index(name)
            if ray.wait([self.running[index]], timeout=0)[0]:
                del self._look_at[name]
                continue
            self._look_at[name] = now + _LOOK_S
            if name not in self._warned:
                self._warned.add(name)
                self._warn_if_not_running(index)
            self._without_process(index)

    def _without_process(self, index: int) -> None:
        """A hook for pools that can do something for a worker that has no process for long."""

    def _warn_if_not_running(self, index: int) -> None:
        if not ray.wait([self.running[index]], timeout=0)[0]:
            text, limit_s = self._not_running(NO_PROCESS_S), self._start_timeout_s
            log.warning("%s %s; it is given up after %g s", self.names[index], text, limit_s)

    def _not_running(self, timeout_s: float) -> str:
        """Why a worker has no process: what it asks for, and what is free."""
        asked, free = self.resources, ray.available_resources()
        cpus, gpus = free.get("CPU", 0.0), free.get("GPU", 0.0)
        asks = (
            f"it asks for {asked.cpus:g} CPUs and {asked.gpus:g} GPUs,"
            f" of which {cpus:g} and {gpus:g} are free"
        )
        if cpus < asked.cpus or gpus < asked.gpus:
            return f"was given no place by Ray within {timeout_s:g} s: {asks}"
        installing = "; packages of its runtime_env may still be installing"
        return (
            f"did not start within {timeout_s:g} s: {asks} on all nodes together"
            f"{installing if asked.packages else ''}"
        )


def running(worker: Any) -> ray.ObjectRef:
    """The first call to an actor, which is answered as soon as its process runs: an actor answers
    calls in order."""
    ref: ray.ObjectRef = worker.__ray_call__.remote(report_whereabouts)
    return ref


def wait_loaded(pools: Sequence[WorkerPool], timeout_s: float) -> list[Any]:
    """The answers of all workers to their first call, pool by pool in order, within one deadline.

    The pools load at the same time. When a worker is replaced, the deadline begins anew. Raises
    what ``wait_all`` raises, whichever pool it is from.
    """
    names = [name for pool in pools for name in pool.names]
    while True:
        answers = [answer for pool in pools for answer in pool._loaded]
        try:
            return _wait_and_warn(pools, answers, names, timeout_s)
        except WorkerStopped as stopped:
            if False in [pool.replace_stopped(stopped) for pool in pools]:
                raise
        except WorkerLate as waited:
            late = WorkerLate(waited.names, timeout_s)
            slow = [pool for pool in pools if set(pool.names) & set(late.names)]
            if False in [pool.replace_late(late) for pool in slow]:
                seen = [one for pool in slow for one in pool._seen(late)]
                raise WorkerLate(late.names, timeout_s, seen) from None
        except WorkerDied:
            if True not in {pool.replace_dead() for pool in pools}:
                raise


def _wait_and_warn(
    pools: Sequence[WorkerPool],
    answers: Sequence[ray.ObjectRef],
    names: Sequence[str],
    timeout_s: float,
) -> list[Any]:
    """``wait_all`` that warns after ``NO_PROCESS_S`` of workers that have no process yet."""
    deadline = time.monotonic() + timeout_s

    def stopped() -> dict[str, str]:
        return {name: seen for pool in pools for name, seen in pool.stopped_workers().items()}

    if timeout_s > NO_PROCESS_S:
        try:
            return wait_all(answers, names, NO_PROCESS_S, stopped)
        except WorkerLate:
            for pool in pools:
                for index in range(len(pool.names)):
                    pool._warn_if_not_running(index)
    return wait_all(answers, names, deadline - time.monotonic(), stopped)
