"""Faults that have struck, and what must hold of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.chaos.plan import AIMS, OF_A_STEP, STARTING, Fault, Role

# What a run says when it has noticed a fault. Nobody notices a driver that stands still.
_NOTICED: dict[Role, re.Pattern[str]] = {
    "rollout": re.compile(r"rollout worker .*(is replaced|goes on from)"),
    "reward": re.compile(r"reward worker .*is replaced"),
    "learner": re.compile(r"goes on from|is formed again"),
    "redis": re.compile(r"starting it again"),
}
# So many faults meet every state of a run.
ENOUGH = 50
_STATES = ("idle", "sampling", "scoring", *OF_A_STEP)


@dataclass
class Strike:
    """A fault that has struck."""

    fault: Fault
    state: str  # what the victim was doing
    time: float  # Unix time
    steps_done: int
    noticed_s: float | None = None  # until the run said so
    recovered_s: float | None = None  # until a step was done that had not been done before
    pid: int = 0  # of the victim

    @property
    def of_frozen_driver(self) -> bool:
        """Whether it stopped the driver, and did not kill it."""
        return (self.fault.role, self.fault.how) == ("driver", "freeze")

    def named_in(self, text: str) -> bool:
        """Whether a warning is about this fault. That of a pool names the process, which tells the
        loss of one worker from that of another."""
        role = self.fault.role
        if role not in _NOTICED:
            return False
        named = role not in ("rollout", "reward") or f"process {self.pid} " in text
        return named and _NOTICED[role].search(text) is not None

    def lasts_until(self) -> float:
        """The Unix time after which nothing comes of it any more; infinite if that is unknown."""
        noticed_s = 0.0 if self.fault.role == "driver" else self.noticed_s
        if noticed_s is None or self.recovered_s is None:
            return math.inf
        return self.time + max(noticed_s, self.recovered_s)


def never_struck(strikes: Sequence[Strike]) -> list[str]:
    """The states that no fault has met, if there were enough faults to meet all."""
    if len(strikes) < ENOUGH:
        return []
    met = {strike.state for strike in strikes}
    while_starting = {s.fault.role for s in strikes if s.state == STARTING}
    starts = [role for role, aims in AIMS.items() if STARTING in aims]
    return [
        *(f"no fault has struck at {state}" for state in _STATES if state not in met),
        *(f"no starting {role} was struck" for role in starts if role not in while_starting),
    ]


def wrongly_noticed(strikes: Sequence[Strike], warnings: Sequence[tuple[float, str]]) -> list[str]:
    """What a run has lost only because its driver stood still for a while: nothing may be.

    ``warnings`` are those of the run, with their Unix times. A pause during which another fault
    had consequences says nothing.
    """
    problems = []
    for pause in (strike for strike in strikes if strike.of_frozen_driver):
        end = pause.lasts_until()
        others = (strike for strike in strikes if strike is not pause)
        if any(other.time <= end and other.lasts_until() >= pause.time for other in others):
            continue
        problems += [
            f"after fault {pause.fault}, which is only a pause: {text}"
            for then, text in warnings
            if pause.time <= then <= end and any(p.search(text) for p in _NOTICED.values())
        ]
    return problems
