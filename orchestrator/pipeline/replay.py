"""Replay: the learner alone trains on the trajectories that a run has kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from learner.shares import TrainingGroup
from orchestrator.pipeline.alarms import Alarms
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.keeping import kept_batch
from orchestrator.pipeline.roles import GroupStore, Learner
from orchestrator.pipeline.skipped import record_skipped, skipped_in_a_row, updates_skipped
from orchestrator.pipeline.step_row import spreads, step_row, without_nan
from orchestrator.pipeline.telemetry import Telemetry
from orchestrator.record.kept_trajectories import KeptTrajectories
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import RunConfig
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup, values_by_reward


@dataclass
class Replay:
    """A replay whose learner is up."""

    config: RunConfig
    steps: range  # the steps to train on, counted from 1
    # The first of them that other weights sampled than those with its number here; None if no such.
    off_policy_from: int | None
    trajectories: KeptTrajectories  # of the run that is replayed
    store: GroupStore
    learner: Learner
    folder: RunFolder  # of the replay
    progress: Progress
    interrupt: Interrupt
    telemetry: Telemetry
    alarms: Alarms = field(default_factory=Alarms)
    last_saved: Path | None = None

    def marked(self, step: int, groups: list[TrainingGroup]) -> list[TrainingGroup]:
        """The groups of a step, which say whether they are off-policy."""
        if self.off_policy_from is None or step < self.off_policy_from:
            return groups
        return [replace(group, off_policy=True) for group in groups]


def replay(run: Replay) -> None:
    """Train on the kept steps in their order. The last weights are in a checkpoint at the return.

    Each step is trained on the trajectories that the run has sampled. Where the replay's weights
    are not the run's, these are off-policy, whatever their number is.

    Its rows are those of the run, without what only rollout and reward workers can tell. If all
    settings are those of the run, the weights are too, to the bit. Raises ``UpdatesSkipped`` when
    too many updates in a row were skipped, as a run does.
    """
    run.interrupt.stepping = True
    for step in run.steps:
        clock = Clock(run.telemetry.exporter.stage)
        batch = kept_batch(step, run.trajectories, run.store)
        with clock.stage("learn"):
            learned = run.learner.update(run.marked(step, batch.training_groups))
        batch.groups.clear()  # the object store has room for the images of one step
        write_row(run, step_row(step, batch, learned, gap=None), batch.scored, clock)

        last = run.interrupt.requested or step == run.steps[-1]
        if last or step % run.config.checkpoint.every == 0:
            save(run, step)
        most = run.config.learner.max_skipped_updates
        if learned["updates/skipped"] and skipped_in_a_row(run.folder) >= most:
            save(run, step)
            raise updates_skipped(run.folder)
        if last:
            return


def write_row(run: Replay, row: JsonDict, scored: Sequence[ScoredGroup], clock: Clock) -> None:
    """Complete the row of a step, write it and show it."""
    row["alarms"] = run.alarms.check(row, spreads(values_by_reward(scored)))
    record_skipped(run.folder, row, scored)
    row |= clock.row()
    written = without_nan(row)
    run.folder.append("metrics.jsonl", written)
    run.telemetry.step(written)
    for alarm in row["alarms"]:
        run.progress.note(f"step {row['step']}: ALARM: {alarm}")
    run.progress.step(written)


def save(run: Replay, step: int) -> None:
    """Write the checkpoint of ``step`` unless it was just written; older ones are deleted then."""
    checkpoints = run.folder.checkpoints
    if run.last_saved == checkpoints.path(step):
        return
    written = checkpoints.begin(step)
    run.learner.save(written)
    run.last_saved = checkpoints.finish(step, written)
    checkpoints.keep_only({step})
