"""What must hold of the log of a run with faults: which weights were served, and what was counted.

Pure functions of the lines of run.log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MADE = re.compile(r" INFO weight version (\d+): checksum (\S+)$")
_SERVED = re.compile(r" INFO (.+) serves weight version (\d+): checksum (\S+)$")
# What the log says whenever the ledger's counter of the name rises.
_COUNTED = {
    "lost/rollout": re.compile(r" WARNING rollout worker .*; it is replaced$"),
    "lost/reward": re.compile(r" WARNING reward worker .*; it is replaced$"),
    "lost/learner": re.compile(
        r" WARNING .*; (the run goes on from .* and repeats \d+ steps|the group is formed again)$"
    ),
}


def checksums(log: Sequence[str]) -> dict[int, str]:
    """The checksum of each weight version that the learner has published, as published last."""
    return {int(found[1]): found[2] for line in log if (found := _MADE.search(line))}


def wrongly_served(log: Sequence[str], max_staleness: int) -> list[str]:
    """Rollout workers that served other weights than the learner had published under the version.

    At staleness 0 a version that is made again after a fault must be the same to the bit.
    """
    problems = []
    made: dict[str, str] = {}
    served = 0
    for line in log:
        if found := _MADE.search(line):
            version, checksum = found.groups()
            if max_staleness == 0 and made.get(version, checksum) != checksum:
                problems.append(f"version {version} was made again with checksum {checksum}")
            made[version] = checksum
        elif found := _SERVED.search(line):
            worker, version, checksum = found.groups()
            served += 1
            if made.get(version) != checksum:
                problems.append(f"{worker} served version {version} with checksum {checksum}")
    if not served:
        problems.append("the log names no rollout worker that served a weight version")
    return problems


def wrongly_counted(log: Sequence[str], counts: Mapping[str, int], deaths: int) -> list[str]:
    """Counters of the ledger that do not agree with the log.

    A driver that dies may have logged a fault and not have counted it: one for each of its
    ``deaths``.
    """
    problems = []
    for name, pattern in _COUNTED.items():
        logged = sum(pattern.search(line) is not None for line in log)
        counted = counts.get(name, 0)
        if not logged - deaths <= counted <= logged:
            problems.append(f"the ledger counts {name} = {counted}, the log has {logged}")
    return problems
