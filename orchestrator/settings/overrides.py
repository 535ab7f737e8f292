"""``key.sub=value`` on the command line: one setting of a tree of plain data."""

from __future__ import annotations

from typing import Any

from policy.errors import UserError
from policy.yaml_text import parse


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key in place; the value is YAML. Raises ``UserError``, which never shows the value:
    it may be a secret."""
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
    if node.get(name) is None:  # a resolved file spells out null where a group of settings is off
        node[name] = {}
    return node[name]


def _item(node: list[Any], name: str, key: str) -> Any:
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError(f"override {key}: {name!r} is no index of a list of {len(node)}")
    return node[int(name)]
