"""Measures the whole image decoder of Janus-Pro, called as a rollout calls it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.measuring import MIB, extra_bytes, median_seconds
from benchmarks.gpu_check.models import janus
from benchmarks.gpu_check.task import Measure, Task


def measures(task: Task) -> Iterator[Measure]:
    policy, _ = janus(task)
    for name, count in zip(("few", "many"), task.sized((8, 64), (1, 2)), strict=True):
        ids = torch.randint(
            policy.num_codes, (count, policy.num_image_tokens), device=policy.device
        )
        extra = extra_bytes(lambda ids=ids: policy.decode(ids), task.device)
        taken = median_seconds(lambda ids=ids: policy.decode(ids), most=5)
        height, width = policy.decode(ids).shape[1:3]
        shape = f"{count} images of {height} x {width}, {str(policy.dtype)[6:]}"
        yield Measure(f"{name} at once", count / taken, "images/s", shape)
        yield Measure(f"{name} at once: memory", extra / MIB, "MiB", shape)
