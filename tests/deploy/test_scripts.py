"""The shell scripts of the repository, read by shellcheck."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["deploy/slurm/train.sbatch", "tools/install.sh"]
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
    "shellcheck"
)


@pytest.mark.skipif(SHELLCHECK is None, reason="there is no shellcheck")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    """shellcheck knows the mistakes that shells accept, such as words that split at spaces."""
    assert SHELLCHECK is not None
    done = subprocess.run([SHELLCHECK, ROOT / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
