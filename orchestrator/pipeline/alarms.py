"""Alarms: signs that a run learns nothing although it goes on without an error.

Each alarm is a sentence. It goes to the log, to the terminal and into the metrics row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from policy.equality import all_equal
from policy.types import JsonDict

WINDOW = 5  # a reward with one value for so many steps is constant
# Share of the high-entropy tokens of negative advantage that the bonus may turn positive.
MAX_FLIP_SHARE = 0.10
MAX_CUT_SHARE = 0.5  # share of CoTs that the length cap may cut


class Alarms:
    """Checks the metrics rows of one run, in order of steps."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[float, float]]] = {}

    def check(self, row: JsonDict, spreads: Mapping[str, tuple[float, float]]) -> list[str]:
        """The alarms of one step; ``row`` is its metrics row so far.

        ``spreads`` maps a reward to its lowest and highest value over the step's trajectories. A
        reward that failed for all of them is absent. A row without an update has no metrics of one.
        """
        found = []
        if row.get("grad_norm") == 0:
            found.append("the gradient is exactly zero")
        if row.get("updates/skipped"):
            found.append("loss or gradient are not finite: the update was skipped")
        if row["groups/zero_variance"] == row["groups/trained"]:
            found.append("every group has zero reward variance: nothing to learn from")
        if row["groups/failed"]:
            found.append(f"{row['groups/failed']} groups dropped: too many failed rewards")
        if (flips := row.get("bonus/flip_share") or 0.0) > MAX_FLIP_SHARE:
            found.append(f"the bonus reverses {flips:.0%} of the negative high-entropy tokens")
        if (cut := row.get("cot_length/capped") or 0.0) > MAX_CUT_SHARE:
            found.append(f"rollout.max_cot_tokens cuts {cut:.0%} of the CoTs")
        return found + self._constant_rewards(spreads)

    def _constant_rewards(self, spreads: Mapping[str, tuple[float, float]]) -> list[str]:
        found = []
        for name, spread in spreads.items():
            recent = self._recent.setdefault(name, deque(maxlen=WINDOW))
            recent.append(spread)
            lowest, highest = min(s[0] for s in recent), max(s[1] for s in recent)
            if len(recent) == WINDOW and all_equal([lowest, highest]):
                found.append(f"reward {name} has been {lowest:g} for {WINDOW} steps: never varies")
        return found
