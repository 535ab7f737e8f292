"""The short chaos test: a run that is struck by every kind of fault ends as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)  # two runs, of which one starts twice; minutes on a busy machine
def test_ten_faults_change_nothing(tmp_path: Path) -> None:
    """Workers, ranks, a Redis and a driver that are killed and frozen: every group is trained
    exactly once, and the final weights are those of the undisturbed run. A worker of each role is
    killed while it starts in the place of another one, and the driver stands still while a commit
    waits for Redis."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--faults", "10", "--seed", "41"]
    command += ["--steps-per-fault", "1.5", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["faults"], result["lost"], result["duplicated"]) == (10, 0, 0)
    assert (result["unexpected"], result["weights_equal"]) == (0, True)
    rows = (tmp_path / "faults.md").read_text(encoding="utf-8").splitlines()
    states = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[2] for row in rows[2:-2]}
    assert len(states) == 11  # every kind of fault has struck, and there is a line for all
    for role in ("rollout", "reward", "learner"):
        assert states[f"kill {role}"] == "starting 1"
    assert states["freeze driver"] == "commit 1"
