"""Has groups written to files and read from files. The groups never pass through the driver.

An actor does either. It runs on the driver's host, where the run folder is, and fetches one group
at a time from the object store. So the run folder needs to be on shared storage for the checkpoints
of learner ranks on other hosts, but not for the trajectories. The actor asks for no CPU, so that it
never waits for one. It starts when it is first needed, and stays: a process that starts for each
step takes seconds to import torch.

Failure policy: Ray starts the actor again if its process dies, and repeats its call; the files are
written whole, so that the second attempt replaces them. A file that cannot be written, or a call
that is late, raises ``WorkerFailed``, and the next call gets a new actor. A file that is damaged
raises ``UserError``, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.workers.failures import WorkerFailed
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
        self._actor: Any = None
        self._here = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )

    def write(self, files: Sequence[Path], groups: Sequence[GroupRef]) -> list[str]:
        """Write each group to its file; returns the SHA-256 of every file, in order."""
        references = [group.ref for group in groups]
        answer = self._started().write.remote(files, references, self._timeout_s)
        digests: list[str] = self._wait(answer, "the writer of trajectories")
        return digests

    def read(self, files: Sequence[Path], digests: Sequence[str]) -> list[GroupRef]:
        """Read each file into the object store, after a check that it has its SHA-256."""
        read = self._started().read.options(num_returns=len(files) + 1)
        *groups, answer = read.remote(files, digests)
        known: list[tuple[Prompt, int]] = self._wait(answer, "the reader of trajectories")
        return [
            GroupRef(prompt, ref, size) for ref, (prompt, size) in zip(groups, known, strict=True)
        ]

    def _started(self) -> Any:
        if self._actor is None:
            self._actor = (
                ray.remote(GroupFilesWorker)
                .options(
                    num_cpus=0,
                    max_restarts=-1,
                    max_task_retries=-1,
                    scheduling_strategy=self._here,
                )
                .remote()
            )
        return self._actor

    def _wait(self, answer: ray.ObjectRef, name: str) -> Any:
        try:
            return wait_all([answer], [name], self._timeout_s)[0]
        except WorkerFailed:
            ray.kill(self._actor)
            self._actor = None
            raise


def stored(group: Group) -> GroupRef:
    """Put a group of this process into the object store."""
    return GroupRef(group.prompt, ray.put(group), len(group.trajectories))


class GroupFilesWorker:
    """The actor of ``GroupFiles``."""

    def write(
        self, files: Sequence[Path], groups: Sequence[ray.ObjectRef], timeout_s: float
    ) -> list[str]:
        """See ``GroupFiles.write``."""
        for file, group in zip(files, groups, strict=True):
            write_group(file, ray.get(group, timeout=timeout_s))
        return [sha256(file) for file in files]

    def read(
        self, files: Sequence[Path], digests: Sequence[str]
    ) -> Iterator[Group | list[tuple[Prompt, int]]]:
        """The groups, each an object of its own, and then the prompt and the size of each.

        A caller that waits for the last object waits for all groups and fetches none.
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
