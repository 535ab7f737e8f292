"""Shared by every test: process settings, and one Ray cluster for the whole session."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import hypothesis
import pytest

from orchestrator.workers.cluster import private_environment
from policy.runtime import tune_process

tune_process()
private_environment()
# A shell has what it starts in the background ignore Ctrl-C, and all that is started by that in
# turn. Tests that send it to a program would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A slow machine is no failure.
hypothesis.settings.register_profile(
    "without deadlines", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("without deadlines")


@pytest.fixture(scope="module", autouse=True)
def process_group_ends_with_its_file() -> Iterator[None]:
    """DeepSpeed and vLLM each take a process group that is there for their own, and remember it
    after the other has ended it: files may run in any order."""
    yield
    distributed, deepspeed = map(sys.modules.get, ("torch.distributed", "deepspeed.comm"))
    if distributed is None or not distributed.is_initialized():
        return
    if deepspeed is not None and deepspeed.is_initialized():
        deepspeed.destroy_process_group()
    else:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[None]:
    """Where there is a GPU, tensors are made there; else nothing changes.

    A file that is marked ``gpu`` as a whole asks for it, and so runs on both.
    """
    import torch  # not before the process is tuned for it
    from pretend_gpu import made_on_gpu

    with made_on_gpu() if torch.cuda.is_available() else nullcontext():
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster on loopback with one logical GPU; actors of all tests share it."""
    from orchestrator.workers.cluster import ray_cluster as start

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            # Whatever this machine has or hides: Ray counts a GPU that no test computes on.
            environment.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
            environment.setenv("CUDA_VISIBLE_DEVICES", "0")
            stack.enter_context(start(num_cpus=8, object_store_mb=256))
        yield
