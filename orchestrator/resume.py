"""A resumed run must be the run that stopped: changed settings are refused with their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import RunConfig, dump_config
from policy.errors import UserError

# Where things run and how often they are looked at does not change what is computed.
_FREE = ("cluster", "evaluation", "checkpoint", "root", "name", "cache", "replacements")
# A run that stopped because a scorer was late or away goes on with more patience.
_FREE_OF_REWARDS = ("timeout_s", "retries", "retry_delay_s", "restarts", "cache")


def check_unchanged(config: RunConfig, saved: Path) -> None:
    """Raise ``UserError`` that names the first setting that differs from the saved one."""
    before = _flat(yaml.safe_load(saved.read_text()))
    after = _flat(yaml.safe_load(dump_config(config)))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new and not _is_free(key):
            raise UserError(
                f"{key}: the run was started with {old!r}, now it is {new!r}; resume with the same"
                f" settings, or start a new run from its checkpoint with model.path"
            )


def _is_free(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in _FREE or (parts[0] == "rewards" and parts[-1] in _FREE_OF_REWARDS)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    flat: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, dict | list):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
