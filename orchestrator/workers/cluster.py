"""The Ray cluster of a run. Without an address it is a private one that listens on loopback only.

Failure policy: a cluster that cannot be reached or started raises ``UserError`` before any actor
exists. A private cluster ends with the process that started it. Ray gives its own processes 30 s to
start, which can be too short on a busy machine. So a private cluster gets further attempts until
``cluster.start_timeout_s`` is over.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from orchestrator.settings.cluster_address import cluster_address, in_submitted_job
from policy.errors import UserError

log = logging.getLogger("eg_grpo")

_CONNECT_TIMEOUT_S = 60.0
# What Ray says when its processes are slow to start: the last ones, and the first one.
_SLOW_START = ("timed out during startup", "Timed out waiting for file")
# Ray waits many minutes for a cluster that is gone, and only a signal that ends the process
# interrupts it. So a process of its own tries to connect first.
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

    ``num_cpus`` is bookkeeping: the actors may ask for more CPUs together than there are cores.
    SIGTERM does not reach the processes of a private cluster. This process handles SIGTERM as it
    did before. No attempt to start Ray begins after ``start_timeout_s``.
    """
    address = cluster_address(configured)
    if address is None:
        private_environment()
    else:
        _check_direct(configured, address)
        _check_reachable(configured, address, start_timeout_s)
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            with _children_without_sigterm():
                _start_private(num_cpus, object_store_mb, start_timeout_s)
    except SystemExit:  # from the SIGTERM handler that Ray installs before anything else
        raise KeyboardInterrupt from None
    except Exception as error:
        raise _unreachable(configured, address, " ".join(str(error).split())) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _check_direct(configured: str | None, address: str) -> None:
    """Raise ``UserError`` for the address of a proxy, behind which no worker can be placed."""
    if address.startswith("ray://"):
        reason = "a run needs the cluster itself: HOST:6379, or ray job submit"
        raise _unreachable(configured, address, f"this is a proxy for clients; {reason}")


def _check_reachable(configured: str | None, address: str, start_timeout_s: float) -> None:
    """Raise ``UserError`` unless another process, which can be killed, connects to the cluster."""
    limit_s = min(_CONNECT_TIMEOUT_S, start_timeout_s)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CONNECT, address, str(limit_s)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s + start_timeout_s,  # the import of Ray takes time too
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode == -signal.SIGALRM:
        raise _unreachable(configured, address, f"no answer within {limit_s:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _unreachable(configured, address, last)


def _start_private(num_cpus: float, object_store_mb: int, start_timeout_s: float) -> None:
    import ray

    before = set(psutil.Process().children(recursive=True))
    deadline = time.monotonic() + start_timeout_s
    while True:
        try:
            ray.init(
                address="local",
                num_cpus=max(1, round(num_cpus + 0.499)),
                object_store_memory=object_store_mb * 2**20,
                include_dashboard=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )
            return
        except Exception as error:  # Ray raises a bare Exception when a node is slow to start
            slow = any(words in str(error) for words in _SLOW_START)
            if not slow or time.monotonic() >= deadline:
                raise
        log.warning("Ray was slow to start; trying once more")
        for process in set(psutil.Process().children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _unreachable(configured: str | None, address: str | None, reason: str) -> UserError:
    if address and configured in (None, "auto") and address == os.environ.get("RAY_ADDRESS"):
        key = "RAY_ADDRESS (of the submitted job)" if in_submitted_job() else "RAY_ADDRESS"
    else:
        key = "cluster.address"
    where = address or "a private cluster"
    return UserError(f"{key}: cannot start or reach Ray ({where}): {reason}")


@contextmanager
def _children_without_sigterm() -> Iterator[None]:
    """Keep SIGTERM from the processes that are started here, and from their children.

    Slurm sends SIGTERM to every process of a job. Without this the workers would be gone before
    the training step is finished and saved. Children inherit the signal mask of this thread. This
    process still has to receive SIGTERM, so another thread takes it meanwhile. Ray itself keeps
    SIGINT from its processes. When it shuts down, it kills those that ignore SIGTERM after a
    second.
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


def is_connected() -> bool:
    """Whether this process has started a cluster or connected to one."""
    import ray

    return ray.is_initialized()


def private_environment() -> None:
    """Have Ray use loopback sockets only, and a token that other users of this machine do not know.

    Ray reads these variables when it is first imported, so this must be called before. The token
    lives in the environment of this process and its children. Ray would otherwise write a token to
    the home folder. A later cluster would find it there and refuse its clients.

    Raises ``RuntimeError`` when Ray was imported before the variables were set.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise RuntimeError("private_environment() must be called before ray is imported")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
