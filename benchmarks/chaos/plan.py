"""Which faults strike a run, and when. A function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import numpy as np

Role = Literal["rollout", "reward", "learner", "redis", "driver"]
How = Literal["kill", "freeze"]
Kind = tuple[Role, How]

KINDS: tuple[Kind, ...] = (
    ("rollout", "kill"),
    ("reward", "kill"),
    ("learner", "kill"),
    ("redis", "kill"),
    ("driver", "kill"),
    ("rollout", "freeze"),
    ("reward", "freeze"),
    ("learner", "freeze"),
    ("redis", "freeze"),
    ("driver", "freeze"),
)
STARTING = "starting"
# States that last so short that a random moment hardly meets them. Most faults are aimed at one of
# these: they wait for it.
OF_A_STEP = ("learning", "commit", "push", "load", "checkpoint")
AIMS: dict[Role, tuple[str, ...]] = {
    "rollout": (STARTING, "sampling", "load"),
    "reward": (STARTING, "scoring"),
    "learner": (STARTING, "learning", "push", "checkpoint"),
    "redis": OF_A_STEP,
    "driver": OF_A_STEP,
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


def planned(count: int, steps: int, seed: int) -> list[Fault]:
    """``count`` faults in a run of ``steps`` steps.

    The moments are those of a Poisson process that has this number of events: the pauses between
    them are exponential. Every kind comes equally often, in a random order, and so does every aim
    of a role. A fault that is aimed at a starting worker does not keep to its moment. It comes at
    once after another fault of its role, because the worker that starts is the replacement.
    """
    random = np.random.default_rng(seed)
    pauses = random.exponential(size=count + 1)
    moments = np.cumsum(pauses)[:-1] / pauses.sum() * steps
    dealt = random.permutation(list(islice(cycle(range(len(KINDS))), count)))
    faults = []
    for number, (kind, aim) in enumerate(_with_aims([KINDS[kind] for kind in dealt], random)):
        at_once = number > 0 and random.random() < _SHARE_AT_ONCE
        pause_s = float(random.exponential(_AT_ONCE_S)) if at_once else None
        if aim == STARTING:
            pause_s = 0.0
        which = float(random.random())
        faults.append(Fault(number, float(moments[number]), *kind, which, pause_s, aim))
    return faults


def _with_aims(kinds: Sequence[Kind], random: np.random.Generator) -> list[tuple[Kind, str | None]]:
    """The kinds with their aims. One that is aimed at a starting worker is moved behind another
    one of its role."""
    aims: list[str | None] = [None] * len(kinds)
    behind: dict[int, list[int]] = {}  # by place: the places of those that come at once after it
    for role, of_role in AIMS.items():
        places = random.permutation([p for p, kind in enumerate(kinds) if kind[0] == role])
        aimed = places[: round(_AIMED_SHARE * len(places))]
        for place, aim in zip(aimed, cycle(random.permutation(of_role)), strict=False):
            aims[place] = str(aim)
        # A killed worker is replaced at once, a frozen one some seconds later.
        others = [int(place) for place in places if aims[place] != STARTING]
        others = [place for place in others if kinds[place][1] == "kill"] or others
        for place in (int(place) for place in places if aims[place] == STARTING):
            if others:
                behind.setdefault(int(random.choice(others)), []).append(place)
            else:
                aims[place] = None
    moved = {place for followers in behind.values() for place in followers}
    order = [
        place
        for first in range(len(kinds))
        if first not in moved
        for place in (first, *behind.get(first, ()))
    ]
    return [(kinds[place], aims[place]) for place in order]
