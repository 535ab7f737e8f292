"""The commands of docs/cluster.md: those of three hosts by hand are run, the others are parsed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_commands

from orchestrator.commands.parser import make_parser
from tests.command_line import ONE_REWARD
from tests.multihost.hosts import ROOT, Host, network, why_not
from tests.training_records import rows

PAGE = (ROOT / "docs" / "cluster.md").read_text()
TINY = (
    "steps=2 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    " learner.micro_batch_size=4 evaluation.prompts=1 evaluation.samples_per_prompt=1"
    f" '{ONE_REWARD}'"
)
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def commands(text: str) -> list[str]:
    """The lines of the code blocks without a language, in their order."""
    found, language = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language == "":
            found.append(line)
    return found


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("line", re.findall(r"(?:^|-- )(eg-grpo .*)$", PAGE, re.MULTILINE))
def test_commands_of_the_project_are_understood(line: str) -> None:
    """Every ``eg-grpo`` line has a command and flags that exist."""
    _, overrides = make_parser().parse_known_args(shlex.split(line)[1:])
    assert all(re.fullmatch(r"[a-z.]+=\S+", word) for word in overrides)


def test_files_and_flags_exist() -> None:
    """Files that a command names are here, ``docker build`` names a target of the Dockerfile, and
    ``ray start`` knows its flags."""
    lines = commands(PAGE)
    files = {word for line in lines for word in line.split() if word.startswith(("deploy/", "con"))}
    assert len(files) == 11
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


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_three_hosts_by_hand(tmp_path: Path) -> None:
    """The commands of the section, typed on three hosts in its order: the token, Ray on the head
    and on two others, the check of the hosts, the job and its status. The run ends, with what the
    page says, and its folder is where the page says."""
    token, *lines = commands(section("Three hosts by hand"))
    exports, lines = lines[:4], lines[4:]
    (head,) = (line for line in lines if line.startswith("ray start --head"))
    join, _ = (line for line in lines if line.startswith("ray start --address"))
    doctor, submit, status = lines[2:5]
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short: Ray keeps sockets in it
    try:
        with network(folder) as net:
            hosts = [net.add(name, number) for number, name in enumerate(("h1", "h2", "h3"), 1)]
            here = {"10.0.0.1": hosts[0].address, "/shared": str(tmp_path)}
            typed(hosts[0], here, token)
            assert (tmp_path / "ray-token").stat().st_mode & 0o777 == 0o600
            typed(hosts[0], here, *exports, head)
            for host in hosts[1:]:
                typed(host, here, *exports, join)
            assert "FAIL" not in typed(hosts[1], here, *exports, doctor)
            printed = typed(hosts[1], here, *exports, f"{submit} {TINY}")
            assert "steps    2 of 2 committed" in typed(hosts[2], here, status)
            # What Kubernetes' probes ask needs no token.
            health = typed(hosts[1], here, f"python -c '{ASK}' http://10.0.0.1:52365/api/healthz")
            assert health == "raylet: success\ngcs: success\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run = tmp_path / "runs" / "first"
    assert f"{run} has no run yet: it begins" in printed
    assert f"report: {run / 'report.html'}" in printed
    assert [row["step"] for row in rows(run)] == [1, 2]


def typed(host: Host, here: dict[str, str], *lines: str) -> str:
    """Run lines in a shell on the host; what they printed."""
    text = "\n".join(["set -e", *lines])
    for written, place in here.items():
        text = text.replace(written, place)
    path = f"export PATH={Path(sys.executable).parent}:{os.environ['PATH']} PYTHONPATH={ROOT}\n"
    done = host.run("bash", "-c", path + text, timeout_s=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
