"""The GPU's own speed, with which other figures are compared, and the installed versions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu_check.measuring import GB, GIB, copy_bandwidth, median_seconds
from benchmarks.gpu_check.task import Measure, Task

PACKAGES = ("numpy", "pydantic", "peft", "triton", "accelerate", "pytest", "hypothesis",
            "ray", "deepspeed", "vllm", "redis")  # fmt: skip


def measures(task: Task) -> Iterator[Measure]:
    gpu = task.device == "cuda"
    if gpu:
        card = torch.cuda.get_device_properties(0)
        yield Measure("memory", card.total_memory / GIB, "GiB")
        yield Measure("free at the start", torch.cuda.mem_get_info()[0] / GIB, "GiB")
        yield Measure("compute capability", f"{card.major}.{card.minor}")
    for package in PACKAGES:
        yield Measure(package, _version(package))
    size = task.sized(2**31, 2**24)
    shape = f"{size / 2**20:,.0f} MiB"
    yield Measure("copy within its memory", copy_bandwidth(task.device, size) / GB, "GB/s", shape)
    there = torch.zeros(size, dtype=torch.uint8, device=task.device)
    for name, pinned in (("pageable", False), ("pinned", True)):
        host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned and gpu)
        for way, source, target in (("from", there, host), ("to", host, there)):
            taken = median_seconds(lambda a=target, b=source: a.copy_(b), most=3)
            yield Measure(f"{way} the device, {name} memory", size / taken / GB, "GB/s", shape)
    side = task.sized(8192, 256)
    square = torch.randn(side, side, dtype=torch.bfloat16, device=task.device)
    taken = median_seconds(lambda: square @ square, within_s=1.0)
    rate = 2 * side**3 / taken / 1e12
    yield Measure("bfloat16 matrix product", rate, "TFLOP/s", f"{side} x {side}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
