"""Configuration files: YAML, and what a file takes over from the one it names as its ``base``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from policy.errors import UserError
from policy.text_files import read_text

BASE = "base"


def read_tree(path: Path) -> dict[str, Any]:
    """The settings in ``path`` laid over those of its ``base``, if it names one.

    ``base`` is relative to the file that names it. Mappings are merged key by key; a list or a
    value replaces what stood there. Raises ``UserError`` that names the file at fault.
    """
    return _read(path, ())


def forget_preset(tree: dict[str, Any]) -> None:
    """Drop what an older algorithm.preset stood for: a resolved file spells it out."""
    if isinstance(algorithm := tree.get("algorithm"), dict):
        for key in ("bonus", "aggregation"):
            algorithm.pop(key, None)


def _read(path: Path, derived: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in derived:
        raise UserError(f"{path}: {BASE} leads back to the file it started from")
    named = f"{path}, the {BASE} of {derived[-1]}," if derived else str(path)
    tree = _mapping(path, named)
    base = tree.pop(BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE} must name a file")
    below = _read(path.parent / base, (*derived, path.resolve()))
    if "preset" in (tree.get("algorithm") or ()):
        forget_preset(below)
    return _merged(below, tree)


def _mapping(path: Path, named: str) -> dict[str, Any]:
    text = read_text(path, f"configuration file {named}")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of settings")
    return tree


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
