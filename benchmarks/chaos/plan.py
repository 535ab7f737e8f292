"""Which faults strike a run, and when. A function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import numpy as np

Role = Literal["rollout", "reward", "learner", "redis", "driver"]
How = Literal["kill", "freeze"]

# A frozen driver is not among them, because it is nothing but a pause.
KINDS: tuple[tuple[Role, How], ...] = (
    ("rollout", "kill"),
    ("reward", "kill"),
    ("learner", "kill"),
    ("redis", "kill"),
    ("driver", "kill"),
    ("rollout", "freeze"),
    ("reward", "freeze"),
    ("learner", "freeze"),
    ("redis", "freeze"),
)
# States that last so short that a random moment hardly meets them. Most faults are aimed at one of
# these: they wait for it.
_OF_A_STEP = ("learning", "commit", "push", "load", "checkpoint")
AIMS: dict[Role, tuple[str, ...]] = {
    "rollout": ("sampling", "load"),
    "reward": ("scoring",),
    "learner": ("learning", "push", "checkpoint"),
    "redis": _OF_A_STEP,
    "driver": _OF_A_STEP,
}
_AIMED_SHARE = 0.7
# This share of the faults does not wait until the run has recovered from the one before.
_SHARE_AT_ONCE = 0.2
_AT_ONCE_S = 6.0  # the mean pause before such a fault


@dataclass(frozen=True)
class Fault:
    """One fault, before it strikes. Example: at 7.4, the learner is killed in the eighth step."""

    number: int
    at: float  # the steps done when it strikes, and the share of a step's duration after that
    role: Role
    how: How
    which: float  # from 0 to 1: which of the processes of the role
    at_once_s: float | None  # strike so long after the fault before, if ``at`` has not come yet
    aim: str | None  # wait for this state of the victim, or of the run

    def __str__(self) -> str:
        when = f"after step {self.at:.2f}"
        if self.at_once_s is not None:
            when = f"{self.at_once_s:.1f} s after the fault before"
        aim = f", at {self.aim}" if self.aim else ""
        return f"{self.number}: {self.how} {self.role} {when}{aim}"


def planned(
    count: int, steps: int, seed: int, kinds: Sequence[tuple[Role, How]] = KINDS
) -> list[Fault]:
    """``count`` faults in a run of ``steps`` steps.

    The moments are those of a Poisson process that has this number of events: the pauses between
    them are exponential. Every kind comes equally often, in a random order.
    """
    random = np.random.default_rng(seed)
    pauses = random.exponential(size=count + 1)
    moments = np.cumsum(pauses)[:-1] / pauses.sum() * steps
    dealt = random.permutation(list(islice(cycle(range(len(kinds))), count)))
    faults = []
    for number, (moment, kind) in enumerate(zip(moments, dealt, strict=True)):
        at_once = number > 0 and random.random() < _SHARE_AT_ONCE
        pause_s = float(random.exponential(_AT_ONCE_S)) if at_once else None
        role, how = kinds[kind]
        which = float(random.random())
        aim = str(random.choice(AIMS[role])) if random.random() < _AIMED_SHARE else None
        faults.append(Fault(number, float(moment), role, how, which, pause_s, aim))
    return faults
