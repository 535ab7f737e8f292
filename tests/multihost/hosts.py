"""Hosts on one machine: Linux namespaces that a bridge joins, each with a Ray of its own.

A host has its own network, process ids, name, shared memory and local disk (``HOSTS_DISK``). All
other files are the same on all hosts, as on shared storage. The bridge is in a namespace too, so
nothing of this machine's network is touched, and tests that run beside each other have the same
addresses. The kernel ends all processes of a host, and removes its network, when the host's first
process ends. That process ends when its standard input does, so even a killed test leaves nothing.
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

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
GCS_PORT, DASHBOARD_PORT = 6379, 8265
# With these a run outlives that a link is cut for 30 s. TCP sends again 51 s after the beginning of
# such a cut. By then Ray's default of 5 failed checks is reached, and the host counts as dead. A
# server drops a connection that is silent for 20 s, and its client asks only after 300 s.
# docs/running.md names the settings. tests/deploy compares it and the other files with this.
LINK_SETTINGS = {
    "RAY_health_check_failure_threshold": "10",
    "RAY_grpc_keepalive_timeout_ms": "90000",
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "90000",
}
_NETWORK = "10.77.0"
_HOSTS = (("head", 1), ("one", 2), ("two", 3))  # names, and the last part of addresses
_SHARED_MEMORY = 256 * 2**20
_OBJECT_STORE = 128 * 2**20
_START_S, _ATTEMPTS = 120.0, 3
# Without these, a raylet waits 15 s for its agents to choose their ports, and then gives up. On a
# busy machine that is too short.
_AGENTS = ("--dashboard-agent-grpc-port", "52366", "--dashboard-agent-listen-port", "52365",
           "--metrics-export-port", "52364", "--runtime-env-agent-port", "52363")  # fmt: skip
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


def why_not() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian packages iproute2 and util-linux)"
    trial = "ip link add br0 type bridge && mount -t tmpfs tmpfs /dev/shm"
    tried = subprocess.run(
        [*_UNSHARE, "sh", "-c", trial], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"this kernel or user may make no namespaces: {tried.stderr.strip()}"
    return None


_UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child",
            "--mount-proc")  # fmt: skip


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

    def run(self, *words: str, timeout_s: float = _START_S) -> subprocess.CompletedProcess[str]:
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

    def start_ray(self, *words: str) -> None:
        """Start a raylet with token authentication; returns when it is up.

        Ray gives a raylet 15 s to start its agents. On a busy machine a second attempt helps.
        """
        for _ in range(_ATTEMPTS):
            started = self.run(
                RAY, "start", "--node-ip-address", self.address, "--disable-usage-stats",
                "--object-store-memory", str(_OBJECT_STORE), *_AGENTS, *words,
            )  # fmt: skip
            if started.returncode == 0:
                return
            self.end_processes()
        raise AssertionError(started.stdout + started.stderr)

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
        token = folder / "token"
        token.write_text("a-token-of-the-tests-of-several-hosts-0123456789")
        token.chmod(0o600)
        self._variables = LINK_SETTINGS | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(self._disk),
        }
        self._switch = self._made("switch")
        self._at_switch("ip", "link", "add", "br0", "type", "bridge")
        self._at_switch("ip", "link", "set", "br0", "up")

    def add(self, name: str, number: int) -> Host:
        """A new host at the bridge; an earlier one of this name must be dead."""
        host = self._made(name, number)
        self._at_switch("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0",
                        "netns", str(host.first_process))  # fmt: skip
        self._at_switch("ip", "link", "set", name, "master", "br0", "up")
        for words in (["addr", "add", f"{host.address}/24"], ["link", "set", "up"]):
            done = host.run("ip", *words, "dev", "eth0")
            assert done.returncode == 0, done.stderr
        return host

    def cut(self, host: Host) -> None:
        """Nothing reaches the host or leaves it from now on."""
        self._at_switch("ip", "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """The link works again."""
        self._at_switch("ip", "link", "set", host.name, "up")

    def bytes_to(self, host: Host) -> int:
        """All bytes that have crossed the link towards the host so far."""
        shown = json.loads(self._at_switch("ip", "-json", "-stats", "link", "show", host.name))
        return int(shown[0]["stats64"]["tx"]["bytes"])

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


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network without hosts; at the end all its hosts die."""
    with ExitStack() as ends:
        yield Network(folder, ends)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of three hosts. The head has no CPUs, so that all workers are on the others."""

    network: Network
    head: Host
    one: Host
    two: Host

    @property
    def address(self) -> str:
        return f"{self.head.address}:{GCS_PORT}"

    def join(self, host: Host) -> None:
        """Start the raylet of ``one`` or ``two``. Custom resources say which roles it may have."""
        roles = {"rank_of_each_host": 1.0} | (
            {"rollout_host": 1.0} if host is self.one else {"learner_host": 1.0, "reward_host": 1.0}
        )
        host.start_ray("--address", self.address, "--num-cpus", "8", "--resources",
                       json.dumps(roles))  # fmt: skip

    def start_job(self, *words: str) -> subprocess.Popen[str]:
        """Start ``ray job submit --working-dir . -- WORDS`` on the head."""
        address = f"http://{self.head.address}:{DASHBOARD_PORT}"
        return self.head.start(RAY, "job", "submit", "--address", address, "--working-dir", ".",
                               "--", *words)  # fmt: skip


@contextmanager
def started_cluster(folder: Path) -> Iterator[Cluster]:
    """Make three hosts with Ray, whose own files are in ``folder``; at the end they die."""
    with network(folder) as joined:
        cluster = Cluster(joined, *(joined.add(*host) for host in _HOSTS))
        cluster.head.start_ray(
            "--head", "--port", str(GCS_PORT), "--num-cpus", "0", "--dashboard-host",
            cluster.head.address, "--dashboard-port", str(DASHBOARD_PORT),
        )  # fmt: skip
        for host in (cluster.one, cluster.two):
            cluster.join(host)
        yield cluster


def wait_for(what: str, happened: Callable[[], object], timeout_s: float) -> None:
    """Wait until ``happened`` is true; fails after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)
