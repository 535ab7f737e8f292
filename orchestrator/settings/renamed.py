"""Keys that settings had in earlier versions, and what is said to whoever still gives one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.settings.layers import flat
from policy.errors import UserError

# By the old dotted key; each line names the old key and what stands in its place.
RENAMED = {
    "learner.dtype": "learner.dtype is now model.dtype",
    "algorithm.preset": "algorithm.preset is now a file: base=configs/presets/as-paper.yaml (or"
    " as-code.yaml) on the command line, the same as base in a configuration file",
}


def check_renamed(tree: dict[str, Any], path: Path) -> None:
    """Raise ``UserError`` for the first old key in ``tree``: settings of ``path`` with the
    overrides applied."""
    for key in flat(tree):
        if key in RENAMED:
            raise UserError(f"{path}: {RENAMED[key]}")
