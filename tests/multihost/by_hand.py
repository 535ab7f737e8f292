"""Three hosts with Ray, as docs/cluster.md starts them by hand: its commands are typed here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.multihost.hosts import ROOT, Host, Network, network

PAGE = (ROOT / "docs" / "cluster.md").read_text()
_HOSTS = (("head", 1), ("one", 2), ("two", 3))  # names, and the last part of addresses
_ON_TWO = {"learner_host": 1, "reward_host": 1, "rank_of_each_host": 1}
# Ray gives a raylet 15 s to start its agents. On a busy machine a second attempt helps.
_ATTEMPTS = 3


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


_TOKEN, *_LINES = commands(section("Three hosts by hand"))
EXPORTS, _LINES = _LINES[:4], _LINES[4:]
_HEAD, _JOIN, DOCTOR, SUBMIT, STATUS, _JOIN_FOR_A_ROLE = _LINES
(SCALE,) = commands(section("More and fewer workers"))


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of three hosts. The head has no CPUs, so that all workers are on the others."""

    network: Network
    head: Host
    one: Host
    two: Host
    shared: Path  # what the page calls /shared; eg-grpo in it is the checkout

    def join(self, host: Host) -> None:
        """Start the raylet of ``one`` or ``two``. Custom resources say which roles it may have."""
        if host is self.one:
            role = '"rollout_host": 1'
            assert role in _JOIN_FOR_A_ROLE
            line = _JOIN_FOR_A_ROLE.replace(role, f'{role}, "rank_of_each_host": 1')
        else:
            line = f"{_JOIN} --resources='{json.dumps(_ON_TWO)}'"
        self.start_ray(host, f"{line} --num-cpus=8")

    def start_ray(self, host: Host, line: str) -> None:
        """Type a ``ray start``, and again if the raylet's agents were too slow."""
        for _ in range(_ATTEMPTS):
            started = host.run(*self._shell([*EXPORTS, line]))
            if started.returncode == 0:
                return
            host.end_processes()
        raise AssertionError(started.stdout + started.stderr)

    def ran(self, host: Host, *lines: str) -> subprocess.CompletedProcess[str]:
        """Type lines on the host, after those that the page wants before any other command."""
        return host.run(*self._shell([*EXPORTS, *lines]), timeout_s=400)

    def typed(self, host: Host, *lines: str) -> str:
        """What the lines printed; they must succeed."""
        done = self.ran(host, *lines)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def begun(self, host: Host, *lines: str) -> subprocess.Popen[str]:
        """Type lines on the host and do not wait for their end."""
        return host.start(*self._shell([*EXPORTS, *lines]))

    def make_token(self) -> None:
        """Type the line that comes once, before all others."""
        done = self.head.run(*self._shell([_TOKEN]))
        assert done.returncode == 0, done.stderr

    def _shell(self, lines: Sequence[str]) -> list[str]:
        text = "\n".join([f"export PYTHONPATH={ROOT}", "set -e", *lines])
        text = text.replace("10.0.0.1", self.head.address).replace("/shared", str(self.shared))
        return ["bash", "-c", text]


@contextmanager
def started_cluster(folder: Path, shared: Path) -> Iterator[Cluster]:
    """Make three hosts with Ray, whose own files are in ``folder``; at the end they die."""
    (shared / "eg-grpo").symlink_to(ROOT)
    with network(folder) as joined:
        cluster = Cluster(joined, *(joined.add(*host) for host in _HOSTS), shared)
        cluster.make_token()
        cluster.start_ray(cluster.head, f"{_HEAD} --num-cpus=0 --num-gpus=0")
        for host in (cluster.one, cluster.two):
            cluster.join(host)
        yield cluster
