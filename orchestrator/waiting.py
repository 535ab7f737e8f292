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

from policy.errors import UserError

log = logging.getLogger("eg_grpo")


class WorkerFailed(Exception):
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
        # Ready means that it lies on this machine: nothing is left to wait for when it is read.
        done, _ = ray.wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            silent = ", ".join(names[index] for index in pending.values())
            raise WorkerLate(f"{silent} did not answer within {timeout_s:g} s")
        index = pending.pop(done[0])
        try:
            results[index] = ray.get(done[0])
        except ray.exceptions.RayError as error:
            _log_failures({ref: names[other] for ref, other in pending.items()})
            raise _failure(names[index], error) from error
    return [results[index] for index in range(len(names))]


def _log_failures(pending: dict[ray.ObjectRef, str]) -> None:
    """What else is known to have failed, before one failure is raised for all."""
    if not pending:
        return
    done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
    for ref in done:
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            log.warning("%s", _failure(pending[ref], error))


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
