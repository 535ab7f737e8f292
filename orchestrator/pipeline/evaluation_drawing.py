"""Draws the images of an evaluation on the rollout workers, without ledger and learner.

The schedule of training deals the batches, repeats those of workers that are lost, and gives up a
prompt that loses each worker which samples it. Every group leaves the object store as soon as it
is sampled, so that memory does not limit the number of prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.pipeline.roles import Rollout, Waiting
from orchestrator.pipeline.schedule import Layout, Load, Sample, Schedule, Stage
from orchestrator.workers.rollout_events import (
    BatchSampled,
    WeightsLoaded,
    WorkerLeaves,
    WorkerLost,
    WorkerUp,
)
from policy.errors import RunFailed
from policy.sampling import Sampling
from policy.types import Group
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest

if TYPE_CHECKING:
    from orchestrator.workers.learner_group import PublishedWeights

_JOB = "evaluation"
_LONGEST_TURN_S = 1.0


def draw(
    requests: Sequence[GenerationRequest],
    sampling: Sampling,
    config: RolloutConfig,
    rollout: Rollout,
    weights: PublishedWeights,
    wait: Waiting,
    keep: Callable[[int, Group], None],
) -> None:
    """Sample one group for each request, and hand each with its place to ``keep``.

    ``weights`` are those of the checkpoint that the workers started from. ``keep`` is called once
    for each place. Raises ``RunFailed`` when a prompt loses each worker that samples it.
    """
    kept: set[int] = set()
    per_batch = max(1, config.batch_size // len(requests[0].seeds))
    schedule = Schedule(Layout(config.workers, per_batch), 1, 0, 1, attempts=config.attempts)
    schedule.publish(0, hold=True)
    schedule.add_job(_JOB, len(requests), per_batch)
    while len(kept) < len(requests):
        for order in schedule.take_orders():
            if isinstance(order, Load):
                rollout.load(order.worker, weights)
            elif isinstance(order, Sample):
                batch = [requests[place] for place in order.batch.places]
                rollout.sample(order.worker, batch, sampling)
        rollout.advance()
        _hear(rollout, schedule, kept, keep)
        _check_dropped(schedule, requests)
        if schedule.loading or len(kept) == len(requests):
            continue
        longest = min(_LONGEST_TURN_S, max(0.0, rollout.wake_at - time.monotonic()))
        for call in wait(rollout.calls, longest):
            rollout.receive(call)


def _hear(
    rollout: Rollout, schedule: Schedule, kept: set[int], keep: Callable[[int, Group], None]
) -> None:
    for event in rollout.take_events():
        if isinstance(event, WorkerUp):
            schedule.worker_up(event.worker)
        elif isinstance(event, WeightsLoaded):
            schedule.worker_loaded(event.worker, event.receipt.weight_version)
        elif isinstance(event, WorkerLost):
            schedule.worker_lost(event.worker)
        elif isinstance(event, WorkerLeaves):
            schedule.drain(event.worker)
        elif isinstance(event, BatchSampled):
            batch = schedule.sampled(event.worker)
            assert batch is not None
            for place, ref in zip(batch.places, event.groups, strict=True):
                if place in kept:
                    continue
                found = rollout.fetch([ref])
                if found is None:  # its machine is gone, so its batch is sampled again
                    schedule.lost(_JOB, [place])
                    break
                kept.add(place)
                keep(place, found[0])


def _check_dropped(schedule: Schedule, requests: Sequence[GenerationRequest]) -> None:
    stages = schedule.stages(_JOB)
    if dropped := [place for place, stage in stages.items() if stage is Stage.DROPPED]:
        prompt = requests[dropped[0]].prompt
        raise RunFailed(f"prompt {prompt.id} loses each rollout worker that samples it")
