"""The command line as a user types it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
