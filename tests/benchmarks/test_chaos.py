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
def test_nine_faults_change_nothing(tmp_path: Path) -> None:
    """Workers, ranks and a Redis that are killed and frozen, and a driver that is killed: every
    group is trained exactly once, and the final weights are those of the undisturbed run."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--faults", "9", "--seed", "5"]
    command += ["--steps-per-fault", "1.5", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["faults"], result["lost"], result["duplicated"]) == (9, 0, 0)
    assert (result["unexpected"], result["weights_equal"]) == (0, True)
    rows = (tmp_path / "faults.md").read_text(encoding="utf-8").splitlines()
    kinds = [row for row in rows if row.startswith(("| kill", "| freeze"))]
    assert len(kinds) == 9  # every kind of fault has struck
