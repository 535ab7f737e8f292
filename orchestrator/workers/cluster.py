"""The Ray cluster a run lives on: a private one on loopback unless an address is given.

Failure policy: a cluster that cannot be reached or started is a ``UserError`` before any actor
exists; a private cluster ends with the process that started it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.settings.cluster_address import cluster_address, in_submitted_job
from policy.errors import UserError

_CONNECT_TIMEOUT_S = 60.0
# Ray waits for a cluster that is gone for many minutes, and nothing interrupts it but a signal that
# ends the process.
_CONNECT = """
import signal, sys
import ray
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
ray.init(address=sys.argv[1], logging_level="WARNING", log_to_driver=False)
"""


@contextmanager
def ray_cluster(
    configured: str | None = None,
    num_cpus: float = 2,
    object_store_mb: int = 512,
    start_timeout_s: float = 300,
) -> Iterator[None]:
    """Connect to the ``cluster_address``, or start a private cluster that listens on loopback only.

    ``num_cpus`` is bookkeeping: in the synchronous schedule roles take turns, so the sum of what
    the actors ask for may exceed the cores there are. SIGTERM does not reach the processes of a
    private cluster, and is handled by this one as before.
    """
    address = cluster_address(configured)
    if address is None:
        private_environment()
    else:
        _check_reachable(configured, address, start_timeout_s)
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            with _children_without_sigterm():
                ray.init(
                    address="local",
                    num_cpus=max(1, round(num_cpus + 0.499)),
                    object_store_memory=object_store_mb * 2**20,
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                    _node_ip_address="127.0.0.1",
                )
    except SystemExit:  # what Ray does at SIGTERM, by a handler that it installs first of all
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises a bare Exception when a node is slow to start
        raise _unreachable(configured, address, " ".join(str(error).split())) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(configured: str | None, address: str, start_timeout_s: float) -> None:
    """Raise ``UserError`` unless a process that may be killed can connect to the cluster."""
    limit_s = min(_CONNECT_TIMEOUT_S, start_timeout_s)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CONNECT, address, str(limit_s)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s + start_timeout_s,  # its import of Ray is not the cluster's fault
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode == -signal.SIGALRM:
        raise _unreachable(configured, address, f"no answer within {limit_s:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _unreachable(configured, address, last)


def _unreachable(configured: str | None, address: str | None, reason: str) -> UserError:
    if address and configured in (None, "auto") and address == os.environ.get("RAY_ADDRESS"):
        key = "RAY_ADDRESS (of the submitted job)" if in_submitted_job() else "RAY_ADDRESS"
    else:
        key = "cluster.address"
    where = address or "a private cluster"
    return UserError(f"{key}: cannot start or reach Ray ({where}): {reason}")


@contextmanager
def _children_without_sigterm() -> Iterator[None]:
    """Have processes that are started here, and theirs, never receive SIGTERM.

    Slurm sends it to every process of a step: the workers would be gone before the step is
    finished and saved. A signal mask is inherited; one that this thread does not take goes to
    another one of the process, and there has to be one. Ray itself keeps SIGINT from them, and
    ends by SIGKILL, after a second, what does not heed SIGTERM.
    """
    done = threading.Event()
    listener = threading.Thread(target=done.wait, name="takes SIGTERM", daemon=True)
    listener.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        done.set()


def private_environment() -> None:
    """Loopback sockets only, and a token that other users of this machine do not know.

    Ray reads these variables when it is first imported: call this before. The token lives in the
    environment of this process and its children; Ray would otherwise write one to the home
    folder, where a later cluster would find it and refuse its clients.

    Raises ``RuntimeError`` when Ray was imported without them.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise RuntimeError("private_environment() must be called before ray is imported")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
