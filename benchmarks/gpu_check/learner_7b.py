"""Measures LoRA training of a model of Janus-Pro-7B's size."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_check.learner_update import updates
from benchmarks.gpu_check.task import Measure, Task


def measures(task: Task) -> Iterator[Measure]:
    return updates(task, "7b", lora=task.sized(16, 2))
