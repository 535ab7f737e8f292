"""How fast a push of weights is, beside a plain copy of as many bytes in the same run.

    python -m benchmarks.weight_push [--gigabytes 1 2 4] [--workers 1 2 4] [--turns 3]

One process sends tensors with the shapes of a 7B language model in bfloat16 through Ray's object
store, as learner rank 0 does, and 1, 2 or 4 processes load them, as rollout workers do, with the
code that a run uses. Each figure is the median of the turns, in GB/s of the weights' size:

- ``copy``: one thread copies the bytes between two arrays of one process by the C library's
  ``memcpy``, which writes so many bytes past the caches: the fastest copy that we know of;
- ``torch copy``: one thread copies them between two tensors by torch's ``copy_``;
- ``digest``: the sender packs its buckets and computes their digests, and sends nothing. To pack
  is to view a tensor: only small ones are copied, into buckets that they share;
- ``publish``: until all buckets are packed and in the object store, while no worker reads them;
- ``fetch``: the slowest worker gets the buckets from the store and computes the checksum, as a
  load does, and copies nothing;
- ``load``: the slowest worker's stall: from buckets in the store to live parameters and checksum;
- ``push``: another version, which idle workers load while it is published: from the call of the
  sender to the answer of the last worker, and its shares of the two copies.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import deque
from collections.abc import Generator
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from orchestrator.workers.cluster import private_environment, ray_cluster
from policy.receipt import WeightReceipt
from policy.runtime import FAST_COPIES
from policy.slots import TensorSlot
from policy.weights import (
    Bucket,
    OutgoingWeights,
    WeightBuckets,
    checksum,
    load_into,
    planned_slots,
)

private_environment()  # before Ray is imported

import ray  # noqa: E402

from learner.worker import LearnerWorker  # noqa: E402
from rollout.worker import ArrivingBuckets  # noqa: E402

GB = 10**9
HIDDEN, FEED_FORWARD = 4096, 11008
DEADLINE_S = 600.0
PARTS = ("copy", "torch copy", "digest", "publish", "fetch", "load", "push")


def layers(size: int, fill: float) -> dict[str, Tensor]:
    """The first tensors of a 7B model's layers, of at most ``size`` bytes and at least one."""
    shapes = {
        **{f"{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
        **{f"{name}_proj": (FEED_FORWARD, HIDDEN) for name in ("gate", "up")},
        "down_proj": (HIDDEN, FEED_FORWARD),
        "input_norm": (HIDDEN,),
        "output_norm": (HIDDEN,),
    }
    named = ((f"{index}.{name}", shapes[name]) for index in count() for name in shapes)
    tensors: dict[str, Tensor] = {}
    for name, shape in named:
        size -= 2 * int(np.prod(shape))
        if tensors and size < 0:
            break
        tensors[name] = torch.full(shape, fill, dtype=torch.bfloat16)
    return tensors


class Sender(LearnerWorker):
    """A learner worker whose rank has weights and nothing else."""

    def __init__(self, size: int) -> None:
        self._tensors = layers(size, fill=1.0)
        slots = planned_slots(self._tensors.items())
        rank: Any = SimpleNamespace(weight_version=0, slots=lambda: slots, publish=self._publish)
        self._rank = rank
        self._slots = slots
        self._settings: Any = SimpleNamespace(learner=SimpleNamespace(shares_gpu=False))

    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def digest(self) -> float:
        start = time.perf_counter()
        deque(OutgoingWeights(self._tensors.items(), self._slots), maxlen=0)
        return time.perf_counter() - start

    def _publish(self) -> Generator[Bucket, None, WeightReceipt]:
        outgoing = OutgoingWeights(self._tensors.items(), self._slots)
        yield from outgoing
        return WeightReceipt(0, outgoing.checksum, np.zeros(0, np.float32))


class Receiver:
    """Loads as ``rollout.worker.RolloutWorker`` does, without an engine. Both calls return the
    checksum and how many seconds they took."""

    def __init__(self, size: int) -> None:
        self._tensors = layers(size, fill=0.0)

    def fetch(self, slots: tuple[TensorSlot, ...], sent: list[ray.ObjectRef]) -> tuple[str, float]:
        start = time.perf_counter()
        found = checksum(WeightBuckets(slots, ArrivingBuckets(sent)))
        return found, time.perf_counter() - start

    def load(self, slots: tuple[TensorSlot, ...], sent: list[ray.ObjectRef]) -> tuple[str, float]:
        start = time.perf_counter()
        weights = WeightBuckets(slots, ArrivingBuckets(sent))
        return load_into(self._tensors.items(), weights), time.perf_counter() - start


def plain_copies(size: int) -> dict[str, float]:
    """Seconds of one thread for copies whose memory is in use already, by NumPy and by torch."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    start = time.perf_counter()
    np.copyto(target, source)  # one call of memcpy
    copied = time.perf_counter() - start
    torch.set_num_threads(1)
    tensors = torch.from_numpy(source), torch.from_numpy(target)
    start = time.perf_counter()
    tensors[1].copy_(tensors[0])
    return {"copy": copied, "torch copy": time.perf_counter() - start}


def begin(sender: Any) -> tuple[tuple[Any, Any], ray.ObjectRef]:
    """Publish as ``LearnerGroup`` does: what a worker needs for a load, and the receipt to come."""
    _, slots, parcels = ray.get(sender.begin_push.remote(), timeout=DEADLINE_S)
    sent = [sender.push_buckets.remote(count)[0] for count in parcels]
    return (ray.put(slots), sent), sender.end_push.remote()


def one_by_one(sender: Any, receivers: list[Any], part: str) -> dict[str, float]:
    """Seconds until weights are published, and of the slowest worker's ``part`` after that."""
    start = time.perf_counter()
    weights, receipt = begin(sender)
    ray.get(receipt, timeout=DEADLINE_S)
    published = time.perf_counter() - start
    calls = [getattr(receiver, part).remote(*weights) for receiver in receivers]
    return {"publish": published, part: slowest(calls, receipt)}


def one_push(sender: Any, receivers: list[Any]) -> float:
    """Seconds until every worker has loaded weights, which it does while they are published."""
    start = time.perf_counter()
    weights, receipt = begin(sender)
    slowest([receiver.load.remote(*weights) for receiver in receivers], receipt)
    return time.perf_counter() - start


def slowest(calls: list[ray.ObjectRef], receipt: ray.ObjectRef) -> float:
    """The longest call in seconds; raises if other bytes arrived than were sent."""
    answers = ray.get(calls, timeout=DEADLINE_S)
    if {found for found, _ in answers} != {ray.get(receipt, timeout=DEADLINE_S).checksum}:
        raise RuntimeError("a worker received other weights than the sender sent")
    return max(seconds for _, seconds in answers)


def measure(size: int, workers: int, turns: int) -> dict[str, float]:
    """Median seconds of each part, and the weights' size in bytes under ``size``."""
    with ray_cluster(num_cpus=workers + 1, object_store_mb=int(size * 1.2 / 2**20) + 128):
        start = ray.remote(num_cpus=1, runtime_env={"env_vars": FAST_COPIES})
        sender = start(Sender).remote(size)
        receivers = [start(Receiver).remote(size) for _ in range(workers)]
        real_size = ray.get(sender.size.remote(), timeout=DEADLINE_S)
        one_push(sender, receivers)  # memory of the store is taken
        rows = []
        for _ in range(turns):
            row = plain_copies(real_size)
            row |= one_by_one(sender, receivers, "fetch")
            row |= one_by_one(sender, receivers, "load")
            row["digest"] = ray.get(sender.digest.remote(), timeout=DEADLINE_S)
            row["push"] = one_push(sender, receivers)
            rows.append(row)
    medians = {part: statistics.median(row[part] for row in rows) for part in PARTS}
    return {"size": float(real_size), **medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.weight_push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    memory = psutil.virtual_memory().available
    print(f"{os.cpu_count()} cores, {memory / GB:.0f} GB of memory free; GB/s")
    print(f"| GB | workers | {' | '.join(PARTS)} | of copy | of torch copy |")
    print(f"|{'---|' * (len(PARTS) + 4)}")
    for gigabytes in options.gigabytes:
        for workers in options.workers:
            size = int(gigabytes * GB)
            # The sender, the store, each worker; while the plain copy runs, two arrays more.
            if (need := size * (4 + workers) * 1.1) > memory:
                empty = "  |" * (len(PARTS) + 1)
                print(f"| {gigabytes:g} | {workers} | needs {need / GB:.0f} GB |{empty}")
                continue
            row = measure(size, workers, options.turns)
            rates = {part: row["size"] / row[part] / GB for part in row if part != "size"}
            figures = " | ".join(f"{rate:.2f}" for rate in rates.values())
            shares = " | ".join(f"{rates['push'] / rates[copy]:.2f}" for copy in PARTS[:2])
            print(f"| {row['size'] / GB:.2f} | {workers} | {figures} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
