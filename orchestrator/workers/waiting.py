"""The one way to wait for other processes. Every wait has a deadline and says who was waited for.

Answers are taken as they come. A worker that fails is heard of although others still work.

Failure policy: a worker that fails raises ``WorkerFailed`` here, with its name. Bad input that a
worker finds raises the worker's own ``UserError``. Workers that compute together (learner ranks)
fail together: when one dies, the others raise from their broken collective, and often their errors
arrive first. So an error that a worker raised is held back for a few seconds. If a worker turns out
to have died, ``WorkerDied`` is raised with that worker's name, and the other errors are logged.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from orchestrator.workers.failures import (
    ObjectLost,
    WorkerDied,
    WorkerFailed,
    WorkerLate,
    WorkerNotStarted,
    WorkerNotWritten,
    WorkerStopped,
)
from policy.disk import NotWritten
from policy.errors import UserError

log = logging.getLogger("eg_grpo")

# pause before asking again whether an answer has come
_TURN_S = 0.05
_STOPPED_TURN_S = 0.5  # between two questions whether a worker is stopped
_DEATH_GRACE_S = 10.0  # Ray reports a death a little after the dead worker's peers have failed


def wait_all(
    refs: Sequence[ray.ObjectRef],
    names: Sequence[str],
    timeout_s: float,
    stopped: Callable[[], Mapping[str, str]] | None = None,
) -> list[Any]:
    """The results in order, all within one deadline; ``names[i]`` is who answers ``refs[i]``.

    Raises a worker's own ``UserError`` or ``WorkerDied`` at once, and ``WorkerFailed`` when no
    worker has died within 10 s of it. Other workers that have failed by then are logged. Raises
    ``WorkerLate``, which names all that are silent, if none has failed.

    ``stopped`` tells of workers that are stopped: their names, and a line about each. They may be
    others than those that answer, which wait for them. Then ``WorkerStopped`` is raised at once.
    """
    deadline = time.monotonic() + timeout_s
    longest_s = math.inf if stopped is None else _STOPPED_TURN_S
    results: dict[int, Any] = {}
    failures: list[UserError | WorkerFailed] = []
    pending = dict(zip(refs, range(len(names)), strict=True))
    while pending:
        if stopped is not None and (seen := stopped()):
            failures.append(WorkerStopped(seen))
            break
        left_s = deadline - time.monotonic()
        _, here = wait_any((), list(pending), min(left_s, longest_s))
        waiting = len(pending)
        for ref in sorted(here, key=pending.__getitem__):
            try:
                results[pending[ref]] = take_result(ref, names[pending[ref]])
            except GetTimeoutError:
                continue
            except (UserError, WorkerFailed) as failure:
                failures.append(failure)
                grace_s = _DEATH_GRACE_S if type(failure) is WorkerFailed else 0.0
                deadline = min(deadline, time.monotonic() + grace_s)
            del pending[ref]
        if len(pending) == waiting and time.monotonic() >= deadline:
            break
    if failures:
        raise _cause(failures)
    if pending:
        raise WorkerLate([names[index] for index in pending.values()], timeout_s)
    return [results[index] for index in range(len(names))]


def wait_any(
    objects: Sequence[ray.ObjectRef], answers: Sequence[ray.ObjectRef], timeout_s: float
) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef]]:
    """Wait for the first of some objects and answers; returns all that have come by then.

    An object has come when it exists on any machine, and it stays there. An answer has come when it
    lies on this machine, to which it is brought. An answer on a machine that sends nothing does not
    delay the others. Both lists are empty if nothing comes within the deadline.
    """
    deadline = time.monotonic() + timeout_s
    awaited = [*objects, *answers]
    coming: list[ray.ObjectRef] = []
    while True:
        left = max(0.0, deadline - time.monotonic())
        # Ray cannot wait for one ref to be brought here and for another to be done in one call.
        done = _done(awaited, min(left, _TURN_S) if coming else left)
        awaited = [ref for ref in awaited if ref not in done]
        coming += [ref for ref in done if ref in answers]
        there = [ref for ref in done if ref in objects]
        here = _here(coming)
        if there or here or not left:
            return there, here


def wait_answers(calls: Sequence[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
    """The calls whose answers lie on this machine, once there is one; see ``wait_any``."""
    return wait_any((), calls, timeout_s)[1]


def is_here(answer: ray.ObjectRef | None) -> bool:
    """Whether the answer to a call lies on this machine; False without a call."""
    return answer is not None and bool(_here([answer]))


def take_result(answer: ray.ObjectRef, name: str) -> Any:
    """The result of a call to the worker ``name``, whose answer lies on this machine.

    Raises what the worker's answer says: its ``UserError``, ``WorkerFailed`` or ``WorkerDied``.
    Raises ``GetTimeoutError`` if the answer has left this machine's memory since it was seen.
    """
    try:
        return ray.get(answer, timeout=0)
    except RayError as error:
        # The exact type: a timeout inside the worker comes as a RayTaskError of both types.
        if type(error) is GetTimeoutError:
            raise
        raise failure_of(name, error) from error


def failure_of(name: str, error: RayError) -> UserError | WorkerFailed:
    """What an answer that is an error says of the worker."""
    if isinstance(error, RayTaskError):  # first: it has the type of its cause too
        if isinstance(error.cause, UserError):
            return error.cause
        if isinstance(error.cause, NotWritten):
            return WorkerNotWritten(f"{name} failed: {_one_line(error.cause)}")
        if isinstance(error.cause, ObjectLostError):
            return ObjectLost(name, _one_line(error.cause), error.cause.object_ref_hex)
        return WorkerFailed(f"{name} failed: {_one_line(error.cause)}")
    if isinstance(error, RayActorError):
        return WorkerDied(f"{name} died: {_cause_of_death(error)}")
    if isinstance(error, ObjectLostError):
        return ObjectLost(name, _one_line(error), error.object_ref_hex)
    if isinstance(error, RuntimeEnvSetupError):
        # The text holds Ray's traceback and all that pip said. pip's last line is the reason.
        reason = str(error).strip().splitlines()[-1].strip()
        return WorkerNotStarted(
            f"{name} was not started: its runtime_env cannot be prepared: {reason}"
        )
    return WorkerDied(f"the answer of {name} is lost: {_one_line(error)}")


def _done(refs: Sequence[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
    """The refs whose objects exist on any machine: waits for the first, then takes all."""
    if not refs:
        time.sleep(timeout_s)
        return []
    first, rest = ray.wait(list(refs), timeout=timeout_s, fetch_local=False)
    if not first or not rest:
        return first
    more, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
    return first + more


def _here(refs: Sequence[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """The refs whose objects lie on this machine. The other objects are sent for."""
    if not refs:
        return []
    here, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=True)
    return here


def _cause_of_death(error: RayActorError) -> str:
    """What Ray says of a dead actor, without its internal names and its list of common causes."""
    if isinstance(error, ActorUnavailableError):  # the machine may be gone, which Ray finds later
        return "the connection to its process is lost"
    text = " ".join(str(error).split()).partition(" Some common causes include")[0]
    found = re.search(r"\bpid: (\d+) .*?\bip: (\S+) (?:The actor is dead because )?(.*)", text)
    return f"process {found[1]} on {found[2]}: {found[3]}" if found else text


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _cause(failures: Sequence[UserError | WorkerFailed]) -> UserError | WorkerFailed:
    """The failure that explains the others: bad input, else a death or a worker that is stopped,
    else what came first.

    The others are logged.
    """
    gone = (WorkerDied, WorkerStopped)
    cause = max(failures, key=lambda f: (isinstance(f, UserError), isinstance(f, gone)))
    for other in failures:
        if str(other) != str(cause):
            log.warning("%s", other)
    return cause
