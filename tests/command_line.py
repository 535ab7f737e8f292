"""The command line as a user types it, in a process of its own or in that of the tests."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.check_process import checked_here
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.run_config import RunConfig

ROOT = Path(__file__).parent.parent
SCRIPT = Path(sys.executable).with_name("eg-grpo")  # what pip installs
needs_script = pytest.mark.skipif(not SCRIPT.exists(), reason="eg-grpo is not installed")
# A module of a user with a reward, which works for images of any size.
MY_REWARDS = """
from policy.types import Score


class Brightness:
    def score(self, images, prompts):
        return [Score(float(image.mean()) / 255) for image in images]
"""
MY_REWARD = "rewards=[{name: brightness, factory: my_rewards:Brightness, cpus_per_worker: 0.5}]"
# For runs whose rewards are not what is tested: every pool of workers takes seconds to start.
ONE_REWARD = (
    'rewards=[{"name":"attributes","factory":"shapes.rewards:Attributes","cpus_per_worker":0.5}]'
)


def command(*arguments: object) -> str:
    """Run ``eg-grpo`` to its end, which must be a success; what it printed on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train(root: Path, name: str, *arguments: str) -> Path:
    """Train ``configs/shapes.yaml`` to the end; the run folder, ``root/name``."""
    return _trained(command, root, name, arguments)


def on_test_cluster(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``eg-grpo`` in this process, on the cluster of the fixture ``ray_cluster``.

    For tests of what a run computes and writes: neither Ray nor a driver is started for it, and no
    process that checks its inputs, which are half of the work of a short run. Workers and ranks are
    processes of the run alone, as ever.
    """
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    left_s, began = signal.getitimer(signal.ITIMER_REAL)[0], time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        where = "orchestrator.pipeline.opening_cluster.ray_cluster"
        patch.setattr(where, lambda *_: nullcontext())
        patch.setattr("orchestrator.commands.train.checked_elsewhere", checked_in_this_process)
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    if left_s:  # a run stops this clock when it ends, and pytest's timeout is on it
        signal.setitimer(signal.ITIMER_REAL, max(0.01, left_s - time.monotonic() + began))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def checked_in_this_process(config: RunConfig) -> AbstractContextManager[Callable[[], Inputs]]:
    """As ``checked_elsewhere``, without a process that loads torch and transformers once more."""
    return nullcontext(cache(lambda: checked_here(config)))


def command_on_test_cluster(*arguments: object) -> str:
    """As ``command``, but ``on_test_cluster``."""
    done = on_test_cluster(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train_on_test_cluster(root: Path, name: str, *arguments: str) -> Path:
    """As ``train``, but ``on_test_cluster``."""
    return _trained(command_on_test_cluster, root, name, arguments)


def _trained(run: Callable[..., str], root: Path, name: str, arguments: Sequence[str]) -> Path:
    out = run("train", "configs/shapes.yaml", f"root={root}", f"name={name}", *arguments)
    assert f"report: {root / name / 'report.html'}\n" in out
    return root / name
