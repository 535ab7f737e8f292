"""Measures one update by the learner's own code: time, tokens a second, planned and real memory."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_check.measuring import MIB, seconds_of
from benchmarks.gpu_check.task import Measure, Task
from benchmarks.learner_task import Task as LearnerTask
from benchmarks.storage_log import peak_bytes
from benchmarks.synthetic import random_batch
from benchmarks.torch_model import TorchModel
from learner.update import Updater


def learner_task(task: Task, model: str, **how: int) -> LearnerTask:
    """A model of random weights in bfloat16 with checkpointing; the shapes model in a dry run."""
    size = {"model": model, **how}
    if task.tiny:
        size |= {"model": "shapes", "prompts": 1, "cot": 4}
    return LearnerTask.of(**size, device=task.device, dtype="bfloat16", gradient_checkpointing=True)


def updates(task: Task, model: str, **how: int) -> Iterator[Measure]:
    """The figures of an EG-GRPO update of ``model``."""
    learner = learner_task(task, model, **how)
    policy, special = learner.policy()
    batch = random_batch(policy, special, learner.shape, learner.sampling)
    tokens = sum(t.num_tokens for part in batch for t in part.source.group.trajectories)
    trained = TorchModel(policy, special, learner.settings(), policy.device)
    updater = Updater(trained, learner.settings(), special)
    shape = (
        f"{learner.model}, {learner.training}, {learner.shape.prompts} x"
        f" {learner.shape.group_size} trajectories, {tokens:,} tokens"
    )
    updater.update(batch, 0)  # from here on the optimizer has its averages
    peak = 0

    def update() -> None:
        nonlocal peak
        peak = peak_bytes(lambda: updater.update(batch, 0), trained.held())

    # On a GPU to ask for the peak costs nothing; once is enough where minutes are few.
    taken = seconds_of(update)
    yield Measure("update", taken, "s", shape)
    yield Measure("trained tokens", tokens / taken, "/s", shape)
    planned = learner.planned()
    parts = planned.held | planned.working
    parts.pop("CUDA context", None)  # torch does not see it
    yield Measure("peak memory", peak / MIB, "MiB", shape)
    yield Measure("planned memory", sum(parts.values()) / MIB, "MiB", shape)
    for name, amount in parts.items():
        if amount:
            yield Measure(f"planned: {name}", amount / MIB, "MiB")
