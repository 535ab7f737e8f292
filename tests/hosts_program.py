"""Runs a program of the tests that makes a Ray cluster of several hosts, beside this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def found_by(module: str, timeout_s: float) -> dict[str, Any]:
    """The JSON object in the last line of what ``module`` prints; it gets an empty folder."""
    # The path is short, because Ray keeps sockets below it.
    with tempfile.TemporaryDirectory(prefix="hp", ignore_cleanup_errors=True) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", module, scratch],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values
