"""Keeps the trajectories of the last steps of a run, so that a learner can train on them again."""

from __future__ import annotations

from orchestrator.pipeline.roles import GroupStore
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.kept_trajectories import KeptGroup, KeptStep, KeptTrajectories


class TrajectoryKeeper:
    """Writes what a step trains on, and deletes the steps that are no longer kept."""

    def __init__(self, keep_steps: int, trajectories: KeptTrajectories, store: GroupStore) -> None:
        """``keep_steps`` is the number of steps that are kept; with 0 nothing is ever written."""
        self._keep_steps = keep_steps
        self._trajectories = trajectories
        self._store = store

    def keep(self, step: int, batch: StepBatch) -> None:
        """Write the batch of ``step``, counted from 1; it is whole on the disk at the return.

        Older steps are deleted only then.
        """
        if not self._keep_steps:
            return
        files = self._trajectories.begin(step, len(batch.groups))
        digests = self._store.write(files, batch.groups)
        groups = tuple(
            KeptGroup(file.name, digest, tuple(advantages), scored)
            for file, digest, advantages, scored in zip(
                files, digests, batch.advantages, batch.scored, strict=True
            )
        )
        self._trajectories.finish(KeptStep(step, groups, tuple(batch.dropped)))
        self._trajectories.delete_until(step - self._keep_steps)


def kept_batch(step: int, trajectories: KeptTrajectories, store: GroupStore) -> StepBatch:
    """The batch of a kept step as it was trained on; raises ``UserError`` for a damaged file."""
    kept, folder = trajectories.read(step), trajectories.path(step)
    return StepBatch(
        groups=store.read(
            [folder / group.file for group in kept.groups], [group.sha256 for group in kept.groups]
        ),
        scored=[group.scored for group in kept.groups],
        advantages=[list(group.advantages) for group in kept.groups],
        dropped=list(kept.dropped),
        usage={},
        workers={},
    )
