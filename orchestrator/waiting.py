"""Every wait on another process has a deadline and says who was waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from policy.errors import UserError


class WorkerFailed(Exception):
    """A worker died, raised, or did not answer in time; the message names it."""


class WorkerLate(WorkerFailed):
    """A worker did not answer in time."""


def wait_all(refs: Sequence[ray.ObjectRef], names: Sequence[str], timeout_s: float) -> list[Any]:
    """The results in order, all within one deadline.

    Raises ``WorkerFailed`` that names the first worker that failed, ``WorkerLate`` the one still
    silent.
    """
    deadline = time.monotonic() + timeout_s
    results = []
    for ref, name in zip(refs, names, strict=True):
        try:
            results.append(ray.get(ref, timeout=max(0.0, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            raise WorkerLate(f"{name} did not answer within {timeout_s:g} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise WorkerFailed(f"{name} failed: {error.cause!r}") from error
        except ray.exceptions.RayActorError as error:
            raise WorkerFailed(f"{name} died: {one_line(error)}") from error
        except ray.exceptions.RuntimeEnvSetupError as error:
            raise WorkerFailed(f"{name} was not started: {one_line(error)}") from None
        except ray.exceptions.RayError as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise WorkerFailed(f"the answer of {name} is lost: {reason}") from error
    return results


def one_line(error: Exception) -> str:
    """What Ray says happened, without its paragraph of what else it might have been."""
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        # Ray's traceback and all that pip said; pip's last line is the reason.
        return f"its runtime_env cannot be prepared: {str(error).strip().splitlines()[-1].strip()}"
    return " ".join(str(error).split()).partition(" Some common causes include")[0]
