"""The command line as a user types it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    out = command("train", "configs/shapes.yaml", f"root={root}", f"name={name}", *arguments)
    assert f"report: {root / name / 'report.html'}\n" in out
    return root / name
