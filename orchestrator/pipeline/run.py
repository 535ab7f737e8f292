"""A run whose actors are up: the parts that the training page uses."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.roles import Learner, Publisher, Rollout
from orchestrator.pipeline.step_batch import BatchSampler
from orchestrator.pipeline.step_end import StepEnd


@dataclass(frozen=True)
class Run:
    """The parts in the order in which a step uses them."""

    start_step: int  # steps that are done already: 0, or those of the checkpoint gone on from
    last_step: int
    batches: BatchSampler
    rollout: Rollout
    learner: Learner
    publisher: Publisher
    end: StepEnd
    interrupt: Interrupt
