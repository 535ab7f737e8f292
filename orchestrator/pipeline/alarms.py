"""What otherwise stays silent: a run that looks healthy and learns nothing.

Each alarm is a sentence for the log and the metrics row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from policy.equality import all_equal
from policy.types import JsonDict

WINDOW = 5  # steps a reward may stand still before it is called constant
MAX_FLIP_SHARE = 0.10  # of negative-advantage high tokens that the bonus turned positive
MAX_CUT_SHARE = 0.5  # of CoTs that the length cap cut


class Alarms:
    """Watches the metrics rows of one run."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[float, float]]] = {}

    def check(self, row: JsonDict, spreads: Mapping[str, tuple[float, float]]) -> list[str]:
        """Alarms of one step.

        ``spreads`` holds for every reward the lowest and highest value of the step's
        trajectories; rewards of which all failed are absent.
        """
        found = []
        if not row["grad_norm"]:
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
