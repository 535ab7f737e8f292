"""Every wait on another process has a deadline and says who was waited for.

Answers are taken as they come, so that a worker that fails at once is heard of at once, whoever
else is still at work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray

from policy.errors import RunFailed, UserError

log = logging.getLogger("eg_grpo")

_TURN_S = 0.05  # between looks at whether an answer has come


class WorkerFailed(RunFailed):
    """A worker died, raised, or did not answer in time; the message names it."""


class WorkerLate(WorkerFailed):
    """Workers did not answer in time."""


def wait_all(refs: Sequence[ray.ObjectRef], names: Sequence[str], timeout_s: float) -> list[Any]:
    """The results in order, all within one deadline.

    Raises as soon as one fails: ``WorkerFailed`` that names the worker, or its own ``UserError``.
    Others that have failed by then are logged. ``WorkerLate`` names all that are still silent.
    """
    deadline = time.monotonic() + timeout_s
    results: dict[int, Any] = {}
    pending = dict(zip(refs, range(len(names)), strict=True))
    while pending:
        _, here = wait_any((), list(pending), deadline - time.monotonic())
        answered = len(results)
        for ref in sorted(here, key=pending.__getitem__):
            try:
                results[pending[ref]] = ray.get(ref, timeout=0)
            except ray.exceptions.RayError as error:
                if _has_left(error):
                    continue
                name = names[pending.pop(ref)]
                _log_failures({ref: names[index] for ref, index in pending.items()})
                raise _failure(name, error) from error
            del pending[ref]
        if len(results) == answered and time.monotonic() >= deadline:
            silent = ", ".join(names[index] for index in pending.values())
            raise WorkerLate(f"{silent} did not answer within {timeout_s:g} s")
    return [results[index] for index in range(len(names))]


def wait_any(
    objects: Sequence[ray.ObjectRef], answers: Sequence[ray.ObjectRef], timeout_s: float
) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef]]:
    """Objects that are somewhere and answers that are here: whichever are, after the first.

    Objects stay where they are. An answer is brought here meanwhile; one that lies where nothing
    comes from holds nobody up. Both lists are empty at the end of the deadline.
    """
    deadline = time.monotonic() + timeout_s
    awaited = [*objects, *answers]
    coming: list[ray.ObjectRef] = []
    while True:
        left = max(0.0, deadline - time.monotonic())
        # Ray does not wait for one to come and for another to be done at the same time.
        done = _done(awaited, min(left, _TURN_S) if coming else left)
        awaited = [ref for ref in awaited if ref not in done]
        coming += [ref for ref in done if ref in answers]
        there = [ref for ref in done if ref in objects]
        here = _here(coming)
        if there or here or not left:
            return there, here


def _done(refs: Sequence[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
    """Those that are done, wherever they lie: after the first, whichever are done with it."""
    if not refs:
        time.sleep(timeout_s)
        return []
    first, rest = ray.wait(list(refs), timeout=timeout_s, fetch_local=False)
    if not first or not rest:
        return first
    more, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
    return first + more


def _here(refs: Sequence[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """Those that lie on this machine; the others are sent for."""
    if not refs:
        return []
    here, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=True)
    return here


def _log_failures(pending: dict[ray.ObjectRef, str]) -> None:
    """What else is known to have failed, before one failure is raised for all."""
    for ref in _here(list(pending)):
        try:
            ray.get(ref, timeout=0)
        except ray.exceptions.RayError as error:
            if not _has_left(error):
                log.warning("%s", _failure(pending[ref], error))


def _has_left(error: ray.exceptions.RayError) -> bool:
    """Whether an answer that was here has left the memory meanwhile.

    The exact type: what a worker itself waited for in vain comes as a failure of both types.
    """
    return type(error) is ray.exceptions.GetTimeoutError


def _failure(name: str, error: ray.exceptions.RayError) -> Exception:
    """What is said of a worker whose answer is an error."""
    if isinstance(error, ray.exceptions.RayTaskError):
        if isinstance(error.cause, UserError):
            return error.cause
        return WorkerFailed(f"{name} failed: {error.cause!r}")
    if isinstance(error, ray.exceptions.RayActorError):
        return WorkerFailed(f"{name} died: {one_line(error)}")
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return WorkerFailed(f"{name} was not started: {one_line(error)}")
    return WorkerFailed(f"the answer of {name} is lost: {type(error).__name__}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """What Ray says happened, without its paragraph of what else it might have been."""
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        # Ray's traceback and all that pip said; pip's last line is the reason.
        return f"its runtime_env cannot be prepared: {str(error).strip().splitlines()[-1].strip()}"
    return " ".join(str(error).split()).partition(" Some common causes include")[0]
