"""The commands of docs/cluster.md are understood. tests/multihost runs those of three hosts."""

from __future__ import annotations

import re
import shlex

import pytest
from ray.scripts.scripts import cli as ray_commands

from orchestrator.commands.parser import make_parser
from tests.multihost.by_hand import PAGE, commands
from tests.multihost.hosts import ROOT


@pytest.mark.parametrize("line", re.findall(r"(?:^|-- |-C \S+ )(eg-grpo .*)$", PAGE, re.MULTILINE))
def test_commands_of_the_project_are_understood(line: str) -> None:
    """Every ``eg-grpo`` line has a command and flags that exist."""
    _, overrides = make_parser().parse_known_args(shlex.split(line)[1:])
    assert all(re.fullmatch(r"[a-z.]+=\S+", word) for word in overrides)


def test_files_and_flags_exist() -> None:
    """Files that a command names are here, ``docker build`` names a target of the Dockerfile, and
    ``ray start`` knows its flags."""
    lines = commands(PAGE)
    files = {word for line in lines for word in line.split() if word.startswith(("deploy/", "con"))}
    assert len(files) == 13
    assert not [file for file in files if not (ROOT / file).is_file()]
    (build,) = (line for line in lines if line.startswith("docker build"))
    target = build.split("--target ")[1].split()[0]
    assert f" AS {target}\n" in (ROOT / "deploy/docker/Dockerfile").read_text()
    known = {flag for option in ray_commands.commands["start"].params for flag in option.opts}
    used = {
        word.partition("=")[0]
        for line in lines
        if line.startswith(("ray start", "export PORTS"))
        for word in re.findall(r"--[a-z-]+", line)
    }
    assert len(used) == 12
    assert used <= known
