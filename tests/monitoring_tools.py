"""The command-line tools of Prometheus and Alertmanager, as tests call them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def binary(name: str) -> str:
    """The tool's path. Without the tool the test is skipped, and fails where it must be: in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian's prometheus, prometheus-alertmanager)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def checked(tool: str, *arguments: object) -> str:
    """What the tool prints; the test fails when the tool refuses its input."""
    command = [binary(tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
