"""Overrides on the command line.

``key.sub=value`` sets one setting of a tree of plain data. ``base=file`` lays a configuration file
over the one that the command names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.settings.config_files import BASE, named_files
from policy.errors import UserError
from policy.yaml_text import parse


def split_bases(overrides: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Split overrides into the files that ``base=`` names and the other overrides.

    The value of ``base=`` is one file or a YAML list of files, relative to the working folder.
    Raises ``UserError`` for any other value.
    """
    files: list[Path] = []
    others: list[str] = []
    for override in overrides:
        key, _, text = override.partition("=")
        if key == BASE:
            where = f"override {BASE}"
            files += named_files(parse(text, where), where)
        else:
            others.append(override)
    return files, others


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key in place. The value is parsed as YAML.

    Raises ``UserError``. Its message never shows the value, because that may be a secret.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} is not of the form key=value")
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        node = _below(node, name, key)
        if not isinstance(node, dict | list):
            raise UserError(f"override {key}: {'.'.join(parents[: depth + 1])} has no keys")
    value = parse(text, f"override {key}")
    if isinstance(node, list):
        _item(node, leaf, key)
        node[int(leaf)] = value
    else:
        node[leaf] = value


def _below(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return _item(node, name, key)
    if node.get(name) is None:  # a saved config.yaml holds null for a group of settings that is off
        node[name] = {}
    return node[name]


def _item(node: list[Any], name: str, key: str) -> Any:
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError(f"override {key}: {name!r} is no index of a list of {len(node)}")
    return node[int(name)]
