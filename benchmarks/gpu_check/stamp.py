"""Describes the machine and the versions. Two runs are comparable when all of this is equal."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.task import Measure, Task


def measures(task: Task) -> Iterator[Measure]:
    """The stamp, in the form of a part: it needs CUDA, which the session itself must not touch."""
    import torch
    import transformers

    gpu = task.device == "cuda"
    yield Measure("device", torch.cuda.get_device_name() if gpu else _processor())
    if gpu:
        yield Measure("driver", f"driver {_driver()}")
        yield Measure("CUDA", f"CUDA {torch.version.cuda}")
    yield Measure("torch", f"torch {torch.__version__}")
    yield Measure("transformers", f"transformers {transformers.__version__}")
    yield Measure("Python", f"Python {platform.python_version()}")
    yield Measure("sizes", task.sized("real sizes", "tiny sizes"))


def _driver() -> str:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.split("\n")[0].strip()


def _processor() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        described = []
    names = [line.split(":", 1)[1].strip() for line in described if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
