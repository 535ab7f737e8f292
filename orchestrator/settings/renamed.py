"""Keys of earlier versions. A configuration that still has one gets an error with the new key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.settings.layers import flat
from policy.errors import UserError

# The old dotted key and its error message, which names the replacement.
RENAMED = {
    "learner.dtype": "learner.dtype is now model.dtype",
    "algorithm.preset": "algorithm.preset is now a file: give base=configs/presets/as-paper.yaml"
    " (or as-code.yaml), or name it as base in a configuration file; where bonus and aggregation"
    " are set, drop it",
}


def check_renamed(tree: dict[str, Any], path: Path) -> None:
    """Raise ``UserError`` for the first old key in ``tree``.

    ``tree`` holds the settings of the file ``path`` after the overrides were applied.
    """
    for key in flat(tree):
        if key in RENAMED:
            raise UserError(f"{path}: {RENAMED[key]}")
