"""What counts as a stopped process: the rule on states that are given, and real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from policy.stopped import Looks, process_state

# Has its parent trace it, as a debugger does, and stops itself.
TRACED = """
import ctypes, os, signal
PTRACE_TRACEME = 0
assert ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, 0, 0) == 0
os.kill(os.getpid(), signal.SIGSTOP)
"""


def found(looks: Sequence[tuple[float, str | None]]) -> list[bool]:
    """What is said of process 1 at each look, given the look's time and the kernel's state."""
    times = iter([at for at, _ in looks])
    states = iter([state for _, state in looks])
    looker = Looks(lambda pid: next(states), lambda: next(times))
    return [looker.stopped([1]) == {1} for _ in looks]


def test_a_process_counts_when_all_looks_of_two_seconds_found_it_stopped() -> None:
    """Not before, and as long as it stays so."""
    looks = [(0.0, "S"), (0.5, "T"), (1.0, "T"), (1.5, "T"), (2.0, "T"), (2.5, "T"), (3.0, "T")]
    assert found(looks) == [False, False, False, False, False, True, True]


def test_one_that_has_gone_on_in_between_is_counted_anew() -> None:
    """Two short stops are not a long one."""
    looks = [(0.0, "T"), (1.0, "T"), (1.9, "S"), (2.1, "T"), (3.5, "T"), (4.1, "T"), (4.2, "R")]
    assert found(looks) == [False, False, False, False, False, True, False]


@pytest.mark.parametrize("state", ["R", "S", "D", "Z", "t", None])
def test_no_other_state_counts_however_long_it_lasts(state: str | None) -> None:
    """Busy, without CPU on a loaded machine, in a system call, ended, traced, gone."""
    assert not any(found([(0.5 * number, state) for number in range(100)]))


def test_who_was_stopped_as_well_begins_anew() -> None:
    """As of a suspended job: all its processes stop and wake up, whoever looks among the first."""
    looks = [(0.0, "T"), (0.5, "T"), (3600.0, "T"), (3600.5, "S")]
    assert found(looks) == [False] * 4
    looks = [(0.0, "T"), (1.5, "T"), (3.0, "T")]  # a loaded machine looks late, and still finds it
    assert found(looks) == [False, False, True]


def test_each_process_has_its_own_time() -> None:
    """A process that nobody asks about any more is forgotten."""
    now = 0.0
    looker = Looks(lambda pid: "T", lambda: now)
    said = []
    for now, pids in [(0, [1]), (1, [1, 2]), (2, [1, 2]), (3, [2]), (4, [1, 2])]:  # noqa: B007
        said.append(looker.stopped(pids))
    assert said == [set(), set(), {1}, {2}, {2}]


def test_the_kernel_tells_a_stopped_process_from_one_that_sleeps_and_from_a_traced_one() -> None:
    """Real processes of this machine."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    traced = subprocess.Popen([sys.executable, "-c", TRACED])
    try:
        assert process_state(sleeper.pid) in ("R", "S", "D")
        os.kill(sleeper.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while (states := [process_state(p.pid) for p in (sleeper, traced)]) != ["T", "t"]:
            assert time.monotonic() < deadline, states
            time.sleep(0.01)
        os.kill(sleeper.pid, signal.SIGCONT)
        while process_state(sleeper.pid) == "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for process in (sleeper, traced):
            process.kill()
            process.wait()
    assert process_state(sleeper.pid) is None
