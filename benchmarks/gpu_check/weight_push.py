"""A weight version from the learner's device into buffers, and from these onto a rollout's."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.measuring import GB, seconds_of, size_in_bytes
from benchmarks.gpu_check.models import janus
from benchmarks.gpu_check.task import Measure, Task
from policy.weights import WeightBuckets, checksum, load_into, pack


def measures(task: Task) -> Iterator[Measure]:
    policy, _ = janus(task)
    named = dict(policy.trained_parameters())
    kept = {name: tensor.detach().clone() for name, tensor in named.items()}
    size = size_in_bytes(named.values())
    packed: list[WeightBuckets] = []

    def pack_them() -> None:
        packed[:] = [pack(named.items())]

    pack_them()  # the host's memory is taken
    taken = {"pack": seconds_of(pack_them), "checksum": seconds_of(lambda: checksum(packed[0]))}
    with torch.no_grad():
        for tensor in named.values():
            tensor.zero_()
    taken["load"] = seconds_of(lambda: load_into(named.items(), packed[0]))
    taken["all three"] = sum(taken.values())
    shape = f"{size / GB:.3g} GB in {len(named)} tensors"
    for step, seconds in taken.items():
        yield Measure(step, size / seconds / GB, "GB/s", shape)
    same = all(torch.equal(kept[name], tensor) for name, tensor in named.items())
    yield Measure("arrived bit for bit", "yes" if same else "NO")
