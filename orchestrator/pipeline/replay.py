"""Replay: the learner alone trains on the trajectories that a run has kept."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.pipeline.bookkeeping import Bookkeeper
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.keeping import kept_batch
from orchestrator.pipeline.roles import GroupStore, Learner
from orchestrator.pipeline.step_row import step_row
from orchestrator.record.kept_trajectories import KeptTrajectories


@dataclass(frozen=True)
class Replay:
    """A replay whose learner is up."""

    steps: range  # the steps to train on, counted from 1
    trajectories: KeptTrajectories  # of the run that is replayed
    store: GroupStore
    learner: Learner
    books: Bookkeeper
    interrupt: Interrupt


def replay(run: Replay) -> None:
    """Train on the kept steps in their order. The last weights are in a checkpoint at the return.

    Its rows are those of the run, without what only rollout and reward workers can tell. If all
    settings are those of the run, the weights are too, to the bit.
    """
    run.interrupt.stepping = True
    for step in run.steps:
        clock = Clock()
        batch = kept_batch(step, run.trajectories, run.store)
        with clock.stage("learn"):
            learned = run.learner.update(batch.training_groups)
        batch.groups.clear()  # the object store has room for the images of one step
        run.books.end_step(step_row(step, batch, learned, gap=None), batch.scored, clock)
        if run.interrupt.requested:
            break
    run.books.save(step)
