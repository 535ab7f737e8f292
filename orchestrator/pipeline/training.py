"""The training loop: the paper's on-policy schedule, staleness 0, on one page."""

from __future__ import annotations

from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.run import Run
from orchestrator.pipeline.step_row import step_row


def train(run: Run) -> None:
    """EG-GRPO: sample groups, score them, update the weights, send them to the rollout workers.

    The loop counts steps from 0; step s trains weight version s into version s + 1. It returns
    when all steps are done or the user asked to stop. In both cases the last weights are in a
    checkpoint.

    ``orchestrator.pipeline.opening`` makes the parts of ``run``. ``run.learner`` is a
    ``LearnerGroup``; its loss is ``learner.algorithm.objective.eg_grpo_loss``.
    """
    run.publisher.publish(weight_version=run.start_step)
    if run.start_step == 0:
        run.books.evaluate(step=0)

    run.interrupt.stepping = True
    for step in range(run.start_step, run.last_step):
        clock = Clock()
        batch = run.batches.sample(step, clock)
        run.keeper.keep(step + 1, batch)
        with clock.stage("learn"), run.rollout.asleep():
            learned = run.learner.update(batch.training_groups)
        # The object store has room for the images of one step or one evaluation. Free these.
        batch.groups.clear()
        with clock.stage("sync"):
            gap = run.publisher.publish(weight_version=step + 1)

        row = step_row(step + 1, batch, learned, gap)
        run.books.end_step(row, batch.scored, clock)
        if run.interrupt.requested:
            run.books.save(step + 1)
            break
