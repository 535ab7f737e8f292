"""The same seed twice with ``deterministic: true``, which must be set when a process starts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_check import same_seed
from benchmarks.gpu_check.task import Measure, Task
from policy.runtime import choose_deterministic_algorithms


def measures(task: Task) -> Iterator[Measure]:
    choose_deterministic_algorithms()
    yield from same_seed.measures(task)
