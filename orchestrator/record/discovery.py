"""Tells Prometheus where a run can be scraped, by files in the form of its ``file_sd_configs``.

The run folder has one, ``prometheus.json``. A copy of it lies below the root of all run folders, as
``.prometheus/NAME.json``: a pattern of ``file_sd_configs`` may have its asterisk in the name of a
file only, so that ``RUNS/*/prometheus.json`` is refused, and ``RUNS/.prometheus/*.json`` finds
every run.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policy.disk import write_whole, writing

FILE, OF_ALL_RUNS = "prometheus.json", ".prometheus"


@contextmanager
def announced(folder: Path, target: str) -> Iterator[None]:
    """Have both files name the target of the run in ``folder`` as long as the context lasts.

    A file that another driver has written since is left alone. What a process leaves that is killed
    is overwritten when the run goes on, or removed when another run on its host takes its address.
    """
    # ``run`` is a label of the target too, so that ``up`` has it when the run does not answer.
    # Prometheus drops labels that begin with __meta; this one tells the files of two drivers apart.
    host = socket.gethostname()
    labels = {"run": folder.name, "__meta_driver": f"{host}:{os.getpid()}"}
    text = json.dumps([{"targets": [target], "labels": labels}]) + "\n"
    files = (folder / FILE, folder.parent / OF_ALL_RUNS / f"{folder.name}.json")
    with writing(files[1]):
        files[1].parent.mkdir(exist_ok=True)
        for other in files[1].parent.glob("*.json"):
            if (host, target) in _targets(other):
                other.unlink(missing_ok=True)
    for file in files:
        write_whole(file, text)
    try:
        yield
    finally:
        for file in files:
            if file.is_file() and file.read_text(encoding="utf-8") == text:
                file.unlink(missing_ok=True)


def _targets(file: Path) -> list[tuple[str, str]]:
    """Hosts of drivers and their targets in a file; nothing if it is no such file, or is gone.

    A loopback address is another process's on each host.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return [
            (group["labels"]["__meta_driver"].rpartition(":")[0], target)
            for group in found
            for target in group["targets"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def target_of(host: str, port: int) -> str:
    """The ``host:port`` at which others reach what listens at ``host``.

    A wildcard such as 0.0.0.0 can be reached by the name of this machine.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return f"{host}:{port}"
    if address.is_unspecified:
        return f"{socket.gethostname()}:{port}"
    return f"[{host}]:{port}" if address.version == 6 else f"{host}:{port}"
