"""The shell scripts of the repository, read by shellcheck."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [".ci/run", "deploy/slurm/train.sbatch", "tools/install-debian.sh", "tools/install.sh"]
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
    "shellcheck"
)


def test_the_list_has_every_shell_script() -> None:
    """A shell script begins with a line that names a shell. These three folders have scripts."""
    files = [file for folder in (".ci", "deploy", "tools") for file in (ROOT / folder).rglob("*")]
    found = [
        file.relative_to(ROOT).as_posix()
        for file in files
        if file.is_file() and re.match(rb"#!.*\b(ba)?sh\b", file.read_bytes())
    ]
    assert sorted(found) == SCRIPTS


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
