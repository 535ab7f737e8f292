"""Hosts on one machine: Linux namespaces that a bridge joins.

A host has its own network, process ids, name, shared memory and local disk. All other files are the
same on all hosts, as on shared storage. The bridge is in a namespace too, so nothing of this
machine's network is touched, and tests that run beside each other have the same addresses. The
kernel ends all processes of a host, and removes its network, when the host's first process ends.
That process ends when its standard input does, so even a killed test leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_NETWORK = "10.77.0"
_SHARED_MEMORY = 256 * 2**20
_COMMAND_S = 120.0
# Debian and Ubuntu give the host's own name this loopback address.
_NAMES = "127.0.0.1 localhost\n127.0.1.1 {name}\n"
# The first process of a host; $1 is its name, $2 its own files, $3 where its disk appears.
_FIRST = f"""
set -e
mount -t tmpfs -o size={_SHARED_MEMORY} tmpfs /dev/shm
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/disk" "$3"
hostname "$1"
ip link set lo up
echo up
exec cat
"""
_UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child",
            "--mount-proc")  # fmt: skip
_TRIAL = """
ip link add br0 type bridge && mount -t tmpfs tmpfs /dev/shm &&
tc qdisc replace dev br0 root tbf rate 1mbit burst 32kb latency 400ms
"""


def needs_hosts() -> None:
    """Skip the test where the kernel or the user may make no such hosts.

    It is also skipped where programs are missing, and fails where continuous integration must have
    them.
    """
    programs = ("ip", "tc", "unshare", "nsenter")
    if missing := [name for name in programs if shutil.which(name) is None]:
        text = f"not installed: {', '.join(missing)} (Debian packages iproute2 and util-linux)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    tried = subprocess.run(
        [*_UNSHARE, "sh", "-c", _TRIAL], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"this kernel or user may make no namespaces: {tried.stderr.strip()}")


@dataclass
class Host:
    """One host; ``network`` makes it."""

    name: str
    address: str
    variables: Mapping[str, str]
    holder: subprocess.Popen[str] = field(repr=False)

    @property
    def first_process(self) -> int:
        """The id, outside of the host, of the process that ends the host when it ends."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text()
        return int(children.split()[0])

    def command(self, *words: str) -> list[str]:
        """A command line that runs on the host."""
        return ["nsenter", f"--target={self.first_process}", "--all", f"--wd={ROOT}", *words]

    def run(self, *words: str, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a command on the host until it ends."""
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command on the host; its output and errors come together."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def environment(self) -> dict[str, str]:
        """That of this process, without its own Ray, and with the commands of the environment."""
        # Tests of learner ranks in this process leave GLOO_SOCKET_IFNAME=lo in its environment.
        own = ("RAY_", "GLOO_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return inherited | {"PATH": path} | self.variables

    def end_processes(self) -> None:
        """Kill all that runs on the host: raylet, workers and all others. The host stays."""
        self.run("sh", "-c", "kill -9 -1")

    def roles(self) -> Counter[str]:
        """How many actors of each class run on the host, by the titles that Ray gives them."""
        titles = self.run("ps", "-eo", "args").stdout.splitlines()
        actors = [title.removeprefix("ray::") for title in titles if title.startswith("ray::")]
        return Counter(actor.split(".")[0].split()[0] for actor in actors)

    def die(self) -> None:
        """End all processes of the host at once, as a power failure would."""
        self.holder.kill()
        self.holder.wait()


class Network:
    """A bridge and the hosts at it. ``network`` makes and ends it."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        """``folder`` has the hosts' own files; its path must be short, Ray keeps sockets in it."""
        self._folder, self._ends = folder, ends
        self._disk = folder / "local"
        self._disk.mkdir()
        self._variables = {"RAY_TMPDIR": str(self._disk), "RAY_USAGE_STATS_ENABLED": "0"}
        self._switch = self._made("switch")
        self._at_switch("ip", "link", "add", "br0", "type", "bridge")
        self._at_switch("ip", "link", "set", "br0", "up")

    def add(self, name: str, number: int) -> Host:
        """A new host at the bridge; an earlier one of this name must be dead."""
        host = self._made(name, number)
        self._at_switch("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0",
                        "netns", str(host.first_process))  # fmt: skip
        self._at_switch("ip", "link", "set", name, "master", "br0", "up")
        self._at_host(host, "ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        self._at_host(host, "ip", "link", "set", "up", "dev", "eth0")
        return host

    def cut(self, host: Host) -> None:
        """Nothing reaches the host or leaves it from now on."""
        self._at_switch("ip", "link", "set", host.name, "down")

    def slow(self, host: Host, megabits: float) -> None:
        """In each direction the link carries so many megabits a second at most from now on.

        What does not pass at once waits up to 0.4 s, and is lost if it would wait longer.
        """
        rate = ("tbf", "rate", f"{megabits}mbit", "burst", "32kb", "latency", "400ms")
        self._queue(host, *rate)

    def mend(self, host: Host) -> None:
        """The link works again, at full speed."""
        self._queue(host, "noqueue")
        self._at_switch("ip", "link", "set", host.name, "up")

    def bytes_to(self, host: Host) -> int:
        """All bytes that have crossed the link towards the host so far."""
        shown = json.loads(self._at_switch("ip", "-json", "-stats", "link", "show", host.name))
        return int(shown[0]["stats64"]["tx"]["bytes"])

    def held_back(self, host: Host) -> int:
        """How often the slow link towards the host has let something wait since it is slow."""
        shown = json.loads(
            self._at_switch("tc", "-json", "-statistics", "qdisc", "show", "dev", host.name)
        )
        return int(shown[0]["overlimits"])

    def _queue(self, host: Host, *discipline: str) -> None:
        """Each end of a link has a queue for what it sends."""
        self._at_switch("tc", "qdisc", "replace", "dev", host.name, "root", *discipline)
        self._at_host(host, "tc", "qdisc", "replace", "dev", "eth0", "root", *discipline)

    def _made(self, name: str, number: int = 0) -> Host:
        files = self._folder / name
        shutil.rmtree(files, ignore_errors=True)
        (files / "disk").mkdir(parents=True)
        (files / "hosts").write_text(_NAMES.format(name=name))
        holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _FIRST, "sh", name, str(files), str(self._disk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        host = Host(name, f"{_NETWORK}.{number}", self._variables, holder)
        self._ends.callback(host.die)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        return host

    def _at_switch(self, *words: str) -> str:
        # Only the network is entered: the ids of processes stay those of this machine.
        enter = ["nsenter", f"--target={self._switch.first_process}", "--net"]
        done = subprocess.run([*enter, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _at_host(self, host: Host, *words: str) -> None:
        done = host.run(*words)
        assert done.returncode == 0, done.stderr


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network without hosts; at the end all its hosts die."""
    with ExitStack() as ends:
        yield Network(folder, ends)


def wait_for(what: str, happened: Callable[[], object], timeout_s: float) -> None:
    """Wait until ``happened`` is true; fails after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)
