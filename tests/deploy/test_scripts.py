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


def test_a_machine_without_programs_gets_the_packages_of_all(tmp_path: Path) -> None:
    """With nothing installed but a stand-in for apt-get, which notes what it is asked for."""
    asked = tmp_path / "asked"
    for name, text in (("apt-get", f'echo "$@" >> {asked}'), ("id", "echo 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None
    subprocess.run(
        [shell, ROOT / "tools/install-debian.sh"], env={"PATH": str(tmp_path)}, check=True
    )
    update, install = asked.read_text().splitlines()
    assert update == "update -qq"
    assert {"prometheus", "chromium", "iproute2", "util-linux"} <= set(install.split())
