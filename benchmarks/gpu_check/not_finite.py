"""Checks what an update does with numbers that are not finite when a GPU computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks.gpu_check.task import Measure, Task
from benchmarks.learner_task import Task as LearnerTask
from benchmarks.synthetic import random_batch
from benchmarks.torch_model import TorchModel
from learner.shares import GroupSlice
from learner.update import Updater
from policy.janus import JanusPolicy
from policy.types import Group

Batch = list[GroupSlice]
Spoil = Callable[[JanusPolicy, Batch], Batch]


def measures(task: Task) -> Iterator[Measure]:
    """At the shapes model's size: what is asked is not how fast."""
    for dtype in ("float32", "bfloat16"):
        for what, spoil, version in CASES:
            yield Measure(f"{what}, {dtype}", _outcome(task, dtype, spoil, version))


def _a_gradient_is_nan(policy: JanusPolicy, batch: Batch) -> Batch:
    policy.model.lm_head.weight.register_hook(lambda gradient: gradient * math.nan)
    return batch


def _far_from_the_reference(policy: JanusPolicy, batch: Batch) -> Batch:
    """Log-ratios of thousands: their exponential overflows from 89 on."""
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1e4)
    return batch


def _far_from_the_rollout(policy: JanusPolicy, batch: Batch) -> Batch:
    """Recorded log-probs 200 nats too low, so that the ratio overflows."""
    return [
        replace(part, source=replace(part.source, group=_recorded_lower(part.source.group)))
        for part in batch
    ]


def _recorded_lower(group: Group) -> Group:
    lower = tuple(
        replace(
            t,
            cot_logprobs=t.cot_logprobs - 200,
            image_logprobs_conditional=t.image_logprobs_conditional - 200,
        )
        for t in group.trajectories
    )
    return replace(group, trajectories=lower)


# What is spoilt, how, and the version of the weights: rollouts are of version 0.
CASES: tuple[tuple[str, Spoil, int], ...] = (
    ("nothing wrong", lambda policy, batch: batch, 0),
    ("a gradient is NaN", _a_gradient_is_nan, 0),
    ("far from the reference", _far_from_the_reference, 0),
    ("stale and far from the rollout", _far_from_the_rollout, 1),
)


def _outcome(task: Task, dtype: str, spoil: Spoil, version: int) -> str:
    """What the update says, and what became of the weights."""
    learner = LearnerTask.of("shapes", task.device, dtype, prompts=1, cot=4)
    learner = replace(learner, learner=learner.learner.model_copy(update={"learning_rate": 1e-4}))
    policy, special = learner.policy()
    batch = random_batch(policy, special, learner.shape, learner.sampling)
    model = TorchModel(policy, special, learner.settings(), policy.device)
    batch = spoil(policy, batch)
    trained = dict(policy.trained_parameters())
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    row = Updater(model, learner.settings(), special).update(batch, version)
    said = f"gradient norm {row['grad_norm']:.3g}{', skipped' * int(row['updates/skipped'])}"
    if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
        return f"{said}; weights lost"
    kept = all(torch.equal(before[name], tensor) for name, tensor in trained.items())
    return f"{said}; weights {'as before' if kept else 'moved'}"
