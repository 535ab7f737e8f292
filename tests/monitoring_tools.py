"""The command-line tools of Prometheus and Alertmanager, as tests call them."""

from __future__ import annotations

import subprocess

from scraped_run import needs


def checked(tool: str, *arguments: object) -> str:
    """What the tool prints; the test fails when the tool refuses its input."""
    command = [needs(tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
