"""The loss of whole hosts: ``python -m benchmarks.chaos --hosts 3 --faults 4``.

The command starts a Ray cluster of several raylets on this machine, each on a loopback address of
its own. The head has no CPUs: it holds the driver alone. All workers are on the other hosts. A
fault kills the raylet of one of these (SIGKILL), and all workers of the host die with it. A new
host of the same size comes a little later. Every second fault hits the host of learner rank 0.

The groups are so large that Ray keeps them in the memory of the host that sampled them. So groups
and weights are lost together with workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.chaos.checks import Expected, Verdict, judged, other_numbers, undisturbed
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.processes import Process, bury, descendants, send
from orchestrator.pipeline.ledger_folder import read_ledger_folder
from orchestrator.workers.cluster import private_environment

_GROUPS = 4
_CALM_STEPS = 3  # the last ones, so that the run does not end while a fault waits for its moment
_SETTINGS = (
    f"prompts_per_step={_GROUPS}",
    "rollout.group_size=32",
    "rollout.batch_size=64",
    "rollout.timeout_s=60",
    "rollout.load_timeout_s=60",
    'rewards=[{name: attributes, factory: "shapes.rewards:Attributes", workers: 2,'
    " cpus_per_worker: 0.5, timeout_s: 60, retry_delay_s: 0.2, restarts: 8}]",
    "learner.timeout_s=60",
    "learner.micro_batch_size=32",
    "checkpoint.every=2",
    "data.evaluation={}",
)
_CPUS = (2, 3)  # of the hosts, in turns: no host has room for all workers
_STORE = 128 * 2**20
_TURN_S = 0.1
_RECOVER_S = 400.0  # in which a run must have gone on after a fault
_GONE_S = 100.0  # in which the processes of a run, or of the hosts, must have ended
_FREED_S = 30.0  # in which the objects of a run must have gone
_MEAN_PAUSE_S = 5.0  # between the loss of a host and the start of the next
_NOTICED = re.compile(r"rollout worker|reward worker|learner rank|goes on from")


@dataclass
class HostStrike:
    """A host that was lost."""

    had: str  # what its workers were doing
    time: float  # Unix time
    steps_done: int
    noticed_s: float | None = None  # until the run first spoke of a lost worker
    recovered_s: float | None = None  # until a step was done that had not been done before


def started(start: Callable[[], Any], attempts: int = 3) -> Any:
    """What ``start`` returns, which starts a node of Ray.

    Ray gives a node 30 s, which can be too short on a busy machine. Then what was started is
    killed, and another attempt is made.
    """
    before = {process.pid for process in descendants()}
    try:
        return start()
    except Exception:  # Ray raises a bare Exception when a node is slow to start
        if attempts == 1:
            raise
        for process in descendants():
            if process.pid not in before:
                send(process.pid, signal.SIGKILL)
        return started(start, attempts - 1)


class Hosts:
    """A Ray cluster of several hosts on this machine."""

    def __init__(self, count: int, scratch: Path, gpus: int = 0) -> None:
        """``count`` includes the head; Ray's files go to the folder ``scratch``. Each other host
        says that it has ``gpus`` GPUs."""
        private_environment()  # before Ray is imported
        os.environ["RAY_TMPDIR"] = str(scratch)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        head |= {"node_ip_address": "127.0.0.1"}
        self._cluster = started(lambda: Cluster(True, head_node_args=head))
        self.address: str = self._cluster.address
        self._gpus = gpus
        self._started = 1  # hosts, with the head
        self._nodes: list[tuple[Any, int]] = []
        self._to_come: list[tuple[float, int]] = []  # when (monotonic time), with how many CPUs
        for number in range(count - 1):
            self._add(_CPUS[number % len(_CPUS)])

    def workers(self) -> list[list[Process]]:
        """The workers of a run on each host that has some, host by host."""
        found = [self._workers_of(node) for node, _ in self._nodes]
        return [workers for workers in found if workers]

    def lose(self, victim: Process, pause_s: float) -> None:
        """Kill the raylet that started ``victim``; a new host is started ``pause_s`` later."""
        node, cpus = next(entry for entry in self._nodes if _raylet_of(entry[0]) == victim.parent)
        send(victim.parent, signal.SIGKILL)
        self._nodes.remove((node, cpus))
        # What else belongs to the host, such as its log monitor, is lost with it.
        self._cluster.remove_node(node, allow_graceful=False)
        self._to_come.append((time.monotonic() + pause_s, cpus))

    def start_due(self) -> None:
        """Start a host if it is time to; this takes some seconds."""
        if self._to_come and time.monotonic() >= self._to_come[0][0]:
            self._add(self._to_come.pop(0)[1])

    def objects(self) -> int:
        """How many objects the memory of all hosts holds.

        Ray has no public call for this. It is the one behind the command ``ray memory``.
        """
        from ray._private import internal_api

        state = internal_api.get_state_from_address(self.address)
        return int(internal_api.get_memory_info_reply(state).store_stats.num_local_objects)

    @property
    def whole(self) -> bool:
        """Whether no host is missing."""
        return not self._to_come

    def end(self) -> None:
        """End all hosts and their processes."""
        import ray

        ray.shutdown()  # a head that this process is connected to is not ended
        self._cluster.shutdown()

    def _add(self, cpus: int) -> None:
        """Start a host."""

        def add() -> Any:
            self._started += 1
            return self._cluster.add_node(
                num_cpus=cpus,
                num_gpus=self._gpus,
                object_store_memory=_STORE,
                node_ip_address=f"127.0.0.{self._started}",
            )

        self._nodes.append((started(add), cpus))

    def _workers_of(self, node: Any) -> list[Process]:
        raylet = _raylet_of(node)
        return [process for process in descendants() if process.parent == raylet and process.role]


def _raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


class Trial:
    """One run on the hosts, and what happened to it."""

    def __init__(self, driver: Driver, hosts: Hosts) -> None:
        self.driver, self._hosts = driver, hosts
        self.strikes: list[HostStrike] = []
        self.problems: list[str] = []
        self.seconds = 0.0
        self._objects = 0  # in the memory of the hosts, when one of them was lost

    def run(self, moments: Sequence[float], pauses_s: Sequence[float], step_s: float) -> None:
        """Run to the end. A host is lost at each of ``moments``: the steps done by then, and the
        share of a step's duration ``step_s`` after that."""
        began = time.monotonic()
        self.driver.start()
        try:
            for number, (moment, pause_s) in enumerate(zip(moments, pauses_s, strict=True)):
                if not self._goes_on_to(moment, step_s):
                    break
                self._strike(number, pause_s)
            while self.driver.ended() is None and not self._stuck():
                self._turn()
            self.seconds = time.monotonic() - began
            if (code := self.driver.ended()) != 0:
                said = self.driver.lines[-1][1] if self.driver.lines else "nothing"
                self.problems.append(f"the run ended with exit code {code}: {said}")
            self._note_recoveries()
            self.problems += _outliving("the run", lambda process: process.role is not None)
            self._check_memory()
        finally:
            if self.driver.ended() is None:
                send(self.driver.pid, signal.SIGKILL)

    def _check_memory(self) -> None:
        """The cluster goes on after the run, which may leave no object in its memory."""
        deadline = time.monotonic() + _FREED_S
        while (left := self._hosts.objects()) and time.monotonic() < deadline:
            time.sleep(_TURN_S)
        if left:
            self.problems.append(f"the run left {left} objects in the memory of the hosts")
        if self.strikes and not self._objects:  # the check must be able to see them
            self.problems.append("no object was in the memory of the hosts during the run")

    def _goes_on_to(self, moment: float, step_s: float) -> bool:
        """Wait until the moment has come and all earlier losses are healed; False at the end."""
        due = None
        while self.driver.ended() is None and not self._stuck():
            healed = self._hosts.whole and all(s.recovered_s is not None for s in self.strikes)
            if due is None and healed and self.driver.steps_done() >= int(moment):
                due = time.monotonic() + moment % 1 * step_s
            if due is not None and time.monotonic() >= due:
                return True
            self._turn()
        return False

    def _strike(self, number: int, pause_s: float) -> None:
        """Kill the host of the learner, or every second time another one."""
        self._objects += self._hosts.objects()
        hosts = self._hosts.workers()
        learners = [host for host in hosts if any(worker.role == "learner" for worker in host)]
        others = [host for host in hosts if host not in learners]
        victims = (others or learners) if number % 2 else (learners or others)
        had = ", ".join(sorted(f"{worker.role} {worker.doing}" for worker in victims[0]))
        steps = self.driver.steps_done()
        print(f"host {number} is lost after step {steps}: {had}", flush=True)
        self.strikes.append(HostStrike(had, time.time(), steps))
        self._hosts.lose(victims[0][0], pause_s)

    def _stuck(self) -> bool:
        waiting = [strike for strike in self.strikes if strike.recovered_s is None]
        if not waiting or time.time() - waiting[-1].time < _RECOVER_S:
            return False
        text = f"the run did not go on within {_RECOVER_S:g} s after the loss of a host"
        if text not in self.problems:
            self.problems.append(text)
        return True

    def _turn(self) -> None:
        time.sleep(_TURN_S)
        self._hosts.start_due()
        self._note_recoveries()

    def _note_recoveries(self) -> None:
        done = self.driver.steps_done()
        for strike in self.strikes:
            if strike.noticed_s is None:
                said = (
                    then
                    for then, text in self.driver.warnings()
                    if then >= strike.time and _NOTICED.search(text)
                )
                if (first := next(said, None)) is not None:
                    strike.noticed_s = first - strike.time
            if strike.recovered_s is None and done > strike.steps_done:
                strike.recovered_s = time.time() - strike.time


def compare(count: int, faults: int, seed: int, out: Path, scratch: Path) -> int:
    """An undisturbed run and one that loses hosts, on one cluster; returns the exit code."""
    steps = 2 * faults + _CALM_STEPS
    random = np.random.default_rng(seed)
    moments = np.sort(random.uniform(1, 2 * faults + 1, faults))
    pauses_s = random.exponential(_MEAN_PAUSE_S, faults)
    hosts = Hosts(count, scratch)
    try:
        settings = [*_SETTINGS, f"steps={steps}", f"cluster.address={hosts.address}"]
        calm = Trial(Driver(out, "calm", settings, scratch), hosts)
        calm.run([], [], 0.0)
        step_s = median([row["seconds/step"] for row in calm.driver.rows()] or [1.0])
        print(f"undisturbed: {steps} steps in {calm.seconds:.0f} s, {step_s:.1f} s a step")
        struck = Trial(Driver(out, "struck", settings, scratch), hosts)
        if not calm.problems:
            struck.run(moments.tolist(), pauses_s.tolist(), step_s)
    finally:
        hosts.end()
    problems = calm.problems + struck.problems + _outliving("the hosts", lambda process: True)
    verdict = Verdict()
    if not problems:
        view = read_ledger_folder(struck.driver.folder)
        verdict = judged(Expected(steps, _GROUPS, 0), view, struck.driver.rows())
        problems += undisturbed(read_ledger_folder(calm.driver.folder))
        problems += other_numbers(struck.driver.rows(), calm.driver.rows())
    if len(struck.strikes) < faults:
        problems.append(f"{len(struck.strikes)} hosts were lost, not {faults}")
    ours, theirs = (_weights(trial.driver, steps) for trial in (struck, calm))
    equal = ours is not None and ours == theirs
    if not equal:
        problems.append(f"the final weights are {ours}, not {theirs}")
    text = table(struck.strikes)
    (out / "hosts.md").write_text(text, encoding="utf-8")
    print(text)
    for problem in [*problems, *verdict.problems]:
        print(f"WRONG: {problem}")
    lost = verdict.lost, verdict.duplicated, verdict.unexpected
    print(
        json.dumps(
            {"faults": len(struck.strikes)}
            | dict(zip(("lost", "duplicated", "unexpected"), lost, strict=True))
            | {"weights_equal": equal, "seconds_lost": round(struck.seconds - calm.seconds, 1)}
        )
    )
    return 1 if problems or verdict.problems else 0


def table(strikes: Sequence[HostStrike]) -> str:
    """One line for each lost host, in Markdown."""
    lines = [
        "| after step | workers of the lost host | noticed after, s | recovered after, s |",
        "|---|---|---|---|",
    ]
    for strike in strikes:
        times = [
            "unknown" if seconds is None else f"{seconds:.1f}"
            for seconds in (strike.noticed_s, strike.recovered_s)
        ]
        lines.append(f"| {strike.steps_done} | {strike.had} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def _outliving(whom: str, is_of_it: Callable[[Process], bool]) -> list[str]:
    """The processes that are left when ``whom`` has ended, after a while; they are killed."""
    deadline = time.monotonic() + _GONE_S
    while left := [process for process in descendants() if is_of_it(process)]:
        bury(keep=None)
        if time.monotonic() > deadline:
            for process in left:
                send(process.pid, signal.SIGKILL)
            return [f"{process} outlives {whom}" for process in left]
        time.sleep(_TURN_S)
    return []


def _weights(driver: Driver, steps: int) -> str | None:
    file = driver.folder / "checkpoints" / f"step-{steps}" / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
