"""Configuration files: YAML, and what a file takes over from the one it names as its ``base``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policy.errors import UserError
from policy.text_files import read_text
from policy.yaml_text import parse

BASE = "base"


def read_layers(path: Path) -> list[dict[str, Any]]:
    """The settings in ``path`` as the last, before them those of its ``base``, if it names one.

    ``base`` is relative to the file that names it. Raises ``UserError`` that names the file at
    fault, and the line where it can.
    """
    return _read(path, ())


def merged(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each laid over those before it.

    Mappings are merged key by key; a list or a value replaces what stood there.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        if "preset" in (layer.get("algorithm") or ()):
            forget_preset(tree)
        tree = _merged(tree, layer)
    return tree


def forget_preset(tree: dict[str, Any]) -> None:
    """Drop what an older algorithm.preset stood for: a resolved file spells it out."""
    if isinstance(algorithm := tree.get("algorithm"), dict):
        for key in ("bonus", "aggregation"):
            algorithm.pop(key, None)


def _read(path: Path, derived: tuple[Path, ...]) -> list[dict[str, Any]]:
    if path.resolve() in derived:
        raise UserError(f"{path}: {BASE} leads back to the file it started from")
    named = f"{path}, the {BASE} of {derived[-1]}," if derived else str(path)
    tree = _mapping(path, named)
    base = tree.pop(BASE, None)
    if base is None:
        return [tree]
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE} must name a file")
    return [*_read(path.parent / base, (*derived, path.resolve())), tree]


def _mapping(path: Path, named: str) -> dict[str, Any]:
    text = read_text(path, f"configuration file {named}")
    tree = parse(text, str(path))
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
