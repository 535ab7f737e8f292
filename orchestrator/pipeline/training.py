"""The training loop on one page."""

from __future__ import annotations

from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.learner_calls import LearnerLost
from orchestrator.pipeline.ledger import LedgerLost
from orchestrator.pipeline.run import Run
from orchestrator.pipeline.step_row import step_row


def train(run: Run) -> None:
    """EG-GRPO: sample groups, score them, update the weights, send them to the rollout workers.

    The loop counts steps from 0; step s trains weight version s into version s + 1. While this page
    waits, ``run.stages`` keeps rollout and scoring going, as far ahead as ``max_staleness`` allows.
    It returns when all steps are done or the user asked to stop. In both cases the last weights are
    in a checkpoint. When the learner is lost, the run goes on from its last checkpoint.

    ``orchestrator.pipeline.opening`` makes the parts of ``run``. ``run.learner`` is a
    ``LearnerGroup``; its loss is ``learner.algorithm.objective.eg_grpo_loss``.
    """
    while True:
        try:
            run.begin()
            for step in range(run.step, run.last_step):
                take_step(run, step)
                if run.interrupt.requested:
                    break
            run.finish()
            return
        except (LearnerLost, LedgerLost) as failure:
            run.recover(failure)


def take_step(run: Run, step: int) -> None:
    """One step of the algorithm."""
    clock = Clock(run.entered)
    batch = run.stages.batch(step, clock)
    with clock.stage("save"):
        run.books.finish_saving()
        run.keep(step + 1, batch)
    with clock.stage("learn"), run.asleep():
        learned = run.update(batch.training_groups)
    run.trained(step)
    # The object store has room for the images of the steps in flight. Free these.
    batch.groups.clear()
    with clock.stage("sync"):
        gap = run.stages.serve(run.publish(step + 1), run.books.evaluates(step + 1))

    row = step_row(step + 1, batch, learned, gap)
    run.books.end_step(row, batch.scored, clock, run.learner)
