"""Keys and reward factories of earlier versions.

A configuration that still has one gets an error that says what stands in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.settings.layers import flat
from policy.errors import UserError
from rewards.factory import MOVED

# The old dotted key and its error message, which names the replacement.
RENAMED = {
    "learner.dtype": "learner.dtype is now model.dtype",
    "algorithm.preset": "algorithm.preset is now a file: give base=configs/presets/as-paper.yaml"
    " (algorithm.bonus=budget algorithm.aggregation=sequence-mean) or as-code.yaml (capped,"
    " token-mean), or name it as base in a configuration file; where both keys are set, drop it",
}

NO_DELAY = "there is no delay any more, drop it: a batch waits until its groups are sampled"


def check_renamed(tree: dict[str, Any], path: Path) -> None:
    """Raise ``UserError`` for the first old key or reward factory in ``tree``.

    ``tree`` holds the settings of the file ``path`` after the overrides were applied.
    """
    for key, value in flat(tree).items():
        if key in RENAMED:
            raise UserError(f"{path}: {RENAMED[key]}")
        if key.startswith("rewards.") and key.endswith(".factory") and value in MOVED:
            raise UserError(f"{path}: {key}: {value} is now {MOVED[value]}")
        if key.startswith("rewards.") and key.endswith(".batch_delay_s"):
            raise UserError(f"{path}: {key}: {NO_DELAY}")
