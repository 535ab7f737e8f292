"""A run whose actors are up: the parts that the training page uses, and the way back to a
checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from learner.shares import TrainingGroup
from orchestrator.pipeline.bookkeeping import Bookkeeper
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.keeping import TrajectoryKeeper
from orchestrator.pipeline.learner_calls import LearnerLost, learner_call
from orchestrator.pipeline.ledger import Ledger, LedgerLost
from orchestrator.pipeline.roles import Learner, Publisher, Rollout
from orchestrator.pipeline.sample_records import TrainingSamples
from orchestrator.pipeline.stages import Stages
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.exported import STARTING
from orchestrator.record.run_folder import RunFolder

if TYPE_CHECKING:
    from orchestrator.workers.learner_group import PublishedWeights

log = logging.getLogger("eg_grpo")


@dataclass
class Run:
    """The parts in the order in which a step uses them."""

    # The number of steps that are done already. A new run has 0, a resumed one its checkpoint's.
    step: int
    last_step: int
    stages: Stages
    keeper: TrajectoryKeeper
    samples: TrainingSamples
    rollout: Rollout
    learner: Learner
    publisher: Publisher
    books: Bookkeeper
    interrupt: Interrupt
    ledger: Ledger
    folder: RunFolder
    rollout_alone: bool
    # Ends the learner group and forms a new one, from a checkpoint or from the start.
    form_learner: Callable[[Path | None], Learner]
    # Learner groups in a row that may be lost before the run stops.
    restarts: int
    # Is told the stage that the driver begins to wait for.
    entered: Callable[[str], None] = lambda stage: None
    lost_in_a_row: int = 0
    no_memory_in: int | None = None  # the step of the last loss, if a rank had too little memory
    furthest: int = 0  # steps that were done when most were done

    def begin(self) -> None:
        """Serve the weights that the run goes on from; evaluate them before the first step."""
        weights = self.publish(self.step)
        self.entered("sync")
        self.stages.serve(weights, evaluate=self.step == 0)
        if self.step == 0:
            self.entered("evaluate")
            self.books.evaluate(step=0)
        self.interrupt.stepping = True

    def keep(self, step: int, batch: StepBatch) -> None:
        """Keep the trajectories of ``step``, counted from 1, if the settings ask for it, and record
        some of its groups for the report.

        A failure is treated as one of the learner: groups that cannot be fetched to be written
        cannot be fetched to be trained on either.
        """

        def both() -> None:
            self.samples.keep(step, batch)
            self.keeper.keep(step, batch)

        keep = learner_call(both, "keep trajectories")
        self.stages.wait_for(keep)
        keep.result()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Have the rollout workers leave their GPUs to the learner, if the settings ask for it."""
        self.stages.wait_for_starts()
        with self.rollout.asleep():
            yield

    def update(self, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        """One optimizer step on the batch; returns its metrics."""
        update = learner_call(lambda: self.learner.update(batch), "learning")
        self.stages.wait_for(update)
        return update.result()

    def publish(self, weight_version: int) -> PublishedWeights:
        """The learner's weights, in the object store. Idle workers load them meanwhile."""
        publish = learner_call(
            lambda: self.publisher.publish(self.learner, weight_version), "publishing"
        )
        self.stages.wait_for(publish)
        weights = publish.result()
        self.stages.expect(weights)
        complete = learner_call(
            lambda: self.publisher.complete(self.learner, weights), "publishing"
        )
        self.stages.wait_for(complete)
        complete.result()
        return weights

    def trained(self, step: int) -> None:
        """Step ``step`` is in the weights."""
        self.stages.trained(step)
        self.step = step + 1
        if self.step > self.furthest:  # a repeated step proves nothing about the one that failed
            self.furthest, self.lost_in_a_row = self.step, 0

    def finish(self) -> None:
        """Return when the weights are in a checkpoint."""
        self.books.save(self.step, self.learner)
        self.books.finish_saving()

    def recover(self, failure: LearnerLost | LedgerLost) -> None:
        """Go back to the last checkpoint, with a learner group that is formed anew.

        The other roles stay. What was trained since the checkpoint is sampled and trained again; at
        staleness 0 this gives the same numbers. Raises the failure itself when too many learners
        were lost since a step was done for the first time, and when a rank had too little memory in
        the same step as the time before.
        """
        # The ranks that are left may still write a checkpoint, which ``rewind`` deletes below.
        self.entered(STARTING)
        self.learner.close()
        while True:
            self.lost_in_a_row += 1
            no_memory = isinstance(failure, LearnerLost) and failure.no_memory
            if self.lost_in_a_row > self.restarts or (no_memory and self.no_memory_in == self.step):
                raise failure
            self.no_memory_in = self.step if no_memory else None
            step, checkpoint = self.folder.resume_point(self.rollout_alone)
            where = f"step-{step}" if step else "the start"
            text = f"{failure}; the run goes on from {where} and repeats {self.step - step} steps"
            log.warning("%s", text)
            self.books.note(text)
            try:
                self.stages.fall_back(step)
                if isinstance(failure, LedgerLost):
                    self.stages.replace_workers("the ledger was lost")
                    self.ledger.rebuild(step)
                else:
                    self.ledger.fall_back(step)
                self.ledger.note_error(str(failure))
                self.ledger.count("lost/learner")
                self.books.rewind(step)
                self.step = step
                form = learner_call(partial(self.form_learner, checkpoint), "starting")
                self.stages.wait_for(form)
                self.learner = form.result()
                self.rollout.wake()  # those of the lost ranks fill the GPU no more
                self.stages.workers.ranks = self.learner.ranks
                return
            except (LearnerLost, LedgerLost) as again:
                failure = again
