"""The loss of hosts that are not the head, on a real cluster of several raylets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)  # two runs on a cluster of three hosts
def test_a_run_that_loses_two_hosts_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """The learner runs on the first host and not on the second one. All workers of a host die with
    it, and the groups and weights in its memory are gone. The driver goes on, and every group is
    trained exactly once: the final weights are those of the undisturbed run, bit for bit."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--hosts", "3", "--faults", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["faults"], result["lost"], result["duplicated"]) == (2, 0, 0)
    assert (result["unexpected"], result["weights_equal"]) == (0, True)
    first, second = (tmp_path / "hosts.md").read_text(encoding="utf-8").splitlines()[2:]
    assert "learner" in first
    assert "learner" not in second
