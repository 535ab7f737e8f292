"""Configuration files in YAML, and the files that they name as their ``base``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.settings.shipped import config_file
from policy.errors import UserError
from policy.text_files import read_text
from policy.yaml_text import parse

BASE = "base"


def read_layers(path: Path) -> list[dict[str, Any]]:
    """The layers of a configuration file: first those of the files in its ``base``, then its own.

    ``base`` is one file or a list of files, relative to the file that names them. A shipped
    configuration may be given by its name, as ``config_file`` says. The settings of a later layer
    replace those of an earlier one. Raises ``UserError`` that names the file at fault
    and, for unclear YAML, the line.
    """
    return _read(config_file(path), ())


def merged(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All layers merged into one tree.

    Mappings are merged key by key. Any other value of a later layer, also a list, replaces the
    value of the earlier one.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = _merged(tree, layer)
    return tree


def named_files(value: Any, where: str) -> list[Path]:
    """The files that a value of ``base`` names. Raises ``UserError`` that begins with ``where``."""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} must name a file or a list of files")
    return [Path(name) for name in names]


def _read(path: Path, derived: tuple[Path, ...]) -> list[dict[str, Any]]:
    if path.resolve() in derived:
        raise UserError(f"{path}: {BASE} leads back to the file it started from")
    named = f"{path}, the {BASE} of {derived[-1]}," if derived else str(path)
    tree = _mapping(path, named)
    layers = []
    for base in named_files(tree.pop(BASE, None) or [], f"{path}: {BASE}"):
        layers += _read(config_file(base, path.parent), (*derived, path.resolve()))
    return [*layers, tree]


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
