"""A run whose actors are up: the parts that the training page uses."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.pipeline.bookkeeping import Bookkeeper
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.keeping import TrajectoryKeeper
from orchestrator.pipeline.roles import Learner, Publisher, Rollout
from orchestrator.pipeline.step_batch import BatchSampler


@dataclass(frozen=True)
class Run:
    """The parts in the order in which a step uses them."""

    # The number of steps that are done already. A new run has 0, a resumed one its checkpoint's.
    start_step: int
    last_step: int
    batches: BatchSampler
    keeper: TrajectoryKeeper
    rollout: Rollout
    learner: Learner
    publisher: Publisher
    books: Bookkeeper
    interrupt: Interrupt
