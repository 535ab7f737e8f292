"""What ``deterministic: true`` does to a process, and how its GPU memory is allocated."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.small_models.random_janus import save_tiny_checkpoint
from policy.runtime import _ALLOCATOR_SETTINGS, quick_imports, use_expandable_segments

ROOT = Path(__file__).parents[2]
SHOW = """
import os, sys, torch
print(torch.are_deterministic_algorithms_enabled(),
      torch.is_deterministic_algorithms_warn_only_enabled(),
      os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch._C._accelerator_getAllocatorSettings())
"""
# What builds each worker, by the class that a Ray actor is made of.
PROCESSES = {
    "learner": """
from dataclasses import replace
from learner.worker import LearnerWorker
from pathlib import Path
from tests.learner_settings import learner_settings
settings = learner_settings(Path("none"), device="cuda", gpus_per_rank=1)
LearnerWorker(replace(settings, deterministic={on})).tune()
""",
    "rollout": """
from rollout.config import RolloutConfig
from rollout.worker import RolloutWorker
config = RolloutConfig(group_size=2, guidance_scale=1.0, max_cot_tokens=4)
RolloutWorker(config, {checkpoint!r}, "shapes", deterministic={on}).identity()
""",
    "reward": """
from rewards.config import RewardConfig
from rewards.worker import NO_CACHE, RewardWorker
config = RewardConfig(name="a", factory="shapes.rewards:Structure", weight=1.0)
RewardWorker(config, NO_CACHE, deterministic={on}).ready()
""",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("runtime") / "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("role", PROCESSES)
def test_every_worker_computes_deterministically_when_told(role: str, checkpoint: Path) -> None:
    """torch's deterministic algorithms, with a warning where there is none, and cuBLAS' workspace;
    without the setting neither. One process builds the worker without it, and then with it.

    A learner rank for a GPU has told torch's allocator to use expandable segments, the others have
    told it nothing."""
    build = PROCESSES[role]
    code = "".join(build.format(on=on, checkpoint=str(checkpoint)) + SHOW for on in (False, True))
    ours = ("CUBLAS_WORKSPACE_CONFIG", *_ALLOCATOR_SETTINGS)
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    memory = " expandable_segments:True" if role == "learner" else " "
    assert shown == [f"False False None{memory}", f"True True :4096:8{memory}"]


def test_the_user_s_allocator_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the old name as well, which torch would not look at beside the new one."""
    for name in _ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:False")
    use_expandable_segments()
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    use_expandable_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_python_looks_for_garbage_again_after_imports() -> None:
    """Also after one that failed."""
    with suppress(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
