"""A weight version from the learner's device into host memory, and from there onto a rollout's.

The copy into the object store, which lies between them, needs Ray: ``benchmarks.weight_push``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from benchmarks.gpu_check.measuring import GB, seconds_of, size_in_bytes
from benchmarks.gpu_check.models import janus
from benchmarks.gpu_check.task import Measure, Task
from policy.weights import OutgoingWeights, load_into, pack, planned_slots


def measures(task: Task) -> Iterator[Measure]:
    policy, _ = janus(task)
    named = dict(policy.trained_parameters())
    kept = {name: tensor.detach().clone() for name, tensor in named.items()}
    size = size_in_bytes(named.values())

    def send() -> None:
        deque(OutgoingWeights(named.items(), planned_slots(named.items())), maxlen=0)

    packed = pack(named.items())  # it pins the host's memory for ``send`` as well
    taken = {"to the host, with digests": seconds_of(send)}
    with torch.no_grad():
        for tensor in named.values():
            tensor.zero_()
    taken["load, with digests"] = seconds_of(lambda: load_into(named.items(), packed))
    taken["both"] = sum(taken.values())
    shape = f"{size / GB:.3g} GB in {len(named)} tensors"
    for step, seconds in taken.items():
        yield Measure(step, size / seconds / GB, "GB/s", shape)
    same = all(torch.equal(kept[name], tensor) for name, tensor in named.items())
    yield Measure("arrived bit for bit", "yes" if same else "NO")
