"""Measures the GPU memory that a sleeping rollout worker frees, and that torch can give back.

The process is deterministic. Otherwise two rollouts of the same weights may differ on a GPU, and
the comparison of the tokens before and after sleep would say nothing about sleep.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu_check.measuring import MIB, seconds_of
from benchmarks.gpu_check.models import engine, janus, requests, sampling_of
from benchmarks.gpu_check.task import Measure, Task
from policy.runtime import choose_deterministic_algorithms, release_cached_memory


def measures(task: Task) -> Iterator[Measure]:
    choose_deterministic_algorithms()
    policy, encoder = janus(task)
    count = task.sized(8, 2)
    sleeper = engine(task, policy, encoder, count, sampling_of(task))
    (before,) = sleeper.generate(requests(count))
    yield _reserved(task, "reserved awake, after a rollout")
    yield Measure("sleep", seconds_of(sleeper.sleep), "s")
    yield _reserved(task, "reserved asleep")
    yield Measure("wake", seconds_of(sleeper.wake), "s")
    yield _reserved(task, "reserved awake again")
    (after,) = sleeper.generate(requests(count))
    pairs = zip(before.trajectories, after.trajectories, strict=True)
    same = all(np.array_equal(a.image_ids, b.image_ids) for a, b in pairs)
    yield Measure("the same tokens after waking", "yes" if same else "NO")
    scratch = torch.zeros(task.sized(2**32, 2**20), dtype=torch.uint8, device=task.device)
    del scratch
    yield _reserved(task, "reserved with freed memory")
    release_cached_memory()
    yield _reserved(task, "reserved after release_cached_memory")


def _reserved(task: Task, what: str) -> Measure:
    """By torch's allocator; on a CPU there is none."""
    if task.device != "cuda":
        return Measure(what, "no GPU")
    return Measure(what, torch.cuda.memory_reserved() / MIB, "MiB")
