"""Has groups written to files and read from files. The groups never pass through the driver.

A Ray task does either. It runs on the driver's host, where the run folder is, and fetches one group
at a time from the object store. So the run folder needs to be on shared storage for the checkpoints
of learner ranks on other hosts, but not for the trajectories. The task asks for no CPU, so that it
never waits for one.

Failure policy: Ray starts a task again if its process dies; the files are written whole, so that
the second attempt replaces them. A file that cannot be written, or a task that is late, raises
``WorkerFailed``. A file that is damaged raises ``UserError``, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.workers.rollout_events import GroupRef
from orchestrator.workers.waiting import wait_all
from policy.digest import sha256
from policy.errors import UserError
from policy.trajectory_files import read_group, write_group
from policy.types import Group, Prompt


class GroupFiles:
    """Moves groups between the object store and files."""

    def __init__(self, timeout_s: float) -> None:
        """``timeout_s`` is the deadline for the groups of one step."""
        self._timeout_s = timeout_s
        self._here = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )

    def write(self, files: Sequence[Path], groups: Sequence[GroupRef]) -> list[str]:
        """Write each group to its file; returns the SHA-256 of every file, in order."""
        task = self._task(write_groups, num_returns=1)
        answer = task.remote(files, [group.ref for group in groups], self._timeout_s)
        digests: list[str]
        (digests,) = wait_all([answer], ["the writer of trajectories"], self._timeout_s)
        return digests

    def read(self, files: Sequence[Path], digests: Sequence[str]) -> list[GroupRef]:
        """Read each file into the object store, after a check that it has its SHA-256."""
        task = self._task(read_groups, num_returns=len(files) + 1)
        *groups, answer = task.remote(files, digests)
        known: list[tuple[Prompt, int]]
        (known,) = wait_all([answer], ["the reader of trajectories"], self._timeout_s)
        return [
            GroupRef(prompt, ref, size) for ref, (prompt, size) in zip(groups, known, strict=True)
        ]

    def _task(self, function: Any, num_returns: int) -> Any:
        return ray.remote(function).options(
            num_cpus=0, num_returns=num_returns, scheduling_strategy=self._here
        )


def write_groups(
    files: Sequence[Path], groups: Sequence[ray.ObjectRef], timeout_s: float
) -> list[str]:
    """The body of the task of ``GroupFiles.write``."""
    for file, group in zip(files, groups, strict=True):
        write_group(file, ray.get(group, timeout=timeout_s))
    return [sha256(file) for file in files]


def read_groups(
    files: Sequence[Path], digests: Sequence[str]
) -> Iterator[Group | list[tuple[Prompt, int]]]:
    """The body of the task of ``GroupFiles.read``.

    Yields the groups, each an object of its own, and then the prompt and the size of each. A
    caller that waits for the last object waits for all groups and fetches none.
    """
    known = []
    for file, digest in zip(files, digests, strict=True):
        if file.is_file() and sha256(file) != digest:
            raise UserError(
                f"trajectory file {file} is corrupt: its SHA-256 is not that of the run"
            )
        group = read_group(file)
        known.append((group.prompt, len(group.trajectories)))
        yield group
    yield known
