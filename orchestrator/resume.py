"""A resumed run must be the run that stopped: what changed since is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import RunConfig, dump_config
from orchestrator.files import write_whole
from policy.digest import sha256
from policy.errors import UserError
from policy.text_files import read_json, read_text

_INSTEAD = "resume it as it was, or start a new run from its checkpoint with model.path"
# Where things run and how often they are looked at does not change what is computed.
_FREE = ("cluster", "evaluation", "checkpoint", "root", "name", "cache", "replacements")
# A run that stopped because a scorer was late or away goes on with more patience.
_FREE_OF_REWARDS = ("timeout_s", "retries", "retry_delay_s", "restarts", "cache")
_SETTINGS, _INPUTS = "config.yaml", "inputs.json"


def save_settings(config: RunConfig, folder: Path) -> None:
    """Write the resolved settings, and the SHA-256 of each input file by the key that names it."""
    write_whole(folder / _SETTINGS, dump_config(config))
    digests = {key: sha256(file) for key, file in _input_files(config).items()}
    write_whole(folder / _INPUTS, json.dumps(digests, indent=1) + "\n")


def check_unchanged(config: RunConfig, folder: Path) -> None:
    """Raise ``UserError`` that names the first setting or input file that is not the saved one."""
    _check_settings(config, folder / _SETTINGS)
    saved = folder / _INPUTS
    # A run that was begun before digests were saved has none.
    digests = read_json(saved) if saved.is_file() else {}
    for key, file in _input_files(config).items():
        if key in digests and sha256(file) != digests[key]:
            raise UserError(f"{key}: {file} was changed since the run was started; {_INSTEAD}")


def _input_files(config: RunConfig) -> dict[str, Path]:
    """Files whose contents decide what is computed, but for the model, which the learner checks."""
    data = config.data
    files = {"data.train": data.train}
    files |= {f"data.evaluation.{name}": file for name, file in data.evaluation.items()}
    if data.leaks == "drop":  # they then say which training prompts are left
        files |= {f"data.validation.{index}": file for index, file in enumerate(data.validation)}
    if config.model.instruction is not None:
        files["model.instruction"] = config.model.instruction
    return files


def _check_settings(config: RunConfig, saved: Path) -> None:
    before = _flat(yaml.safe_load(read_text(saved)))
    after = _flat(yaml.safe_load(dump_config(config)))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new and not _is_free(key):
            raise UserError(
                f"{key}: the run was started with {old!r}, now it is {new!r}; {_INSTEAD}"
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
