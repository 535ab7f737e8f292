"""Settings as plain data by dotted key, and the layer of a configuration that a setting comes from.

From the lowest to the highest, the layers are the base files, the file itself and the overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def inherited_from(
    layers: Sequence[dict[str, Any]], named: int, overrides: Sequence[str]
) -> Callable[[str, Sequence[str]], bool]:
    """A function ``inherited(key, others)`` that compares the layers of dotted keys.

    It is true if ``key`` is set in a lower layer than at least one of ``others``, or in a base
    alone. ``layers`` are the files, the lowest first. ``layers[named]`` is the file that the
    command names, and all others are bases. The overrides are the layer above them.
    """
    given = [set(flat(layer)) for layer in layers]
    given.append({override.partition("=")[0] for override in overrides})

    def layer_of(key: str) -> int:
        giving = (place for place, keys in enumerate(given) if _gives(keys, key))
        return max(giving, default=-1)

    def inherited(key: str, others: Sequence[str]) -> bool:
        layer = layer_of(key)
        return layer not in (named, len(layers)) or layer < max(map(layer_of, others))

    return inherited


def forget(tree: dict[str, Any], location: Sequence[str | int]) -> None:
    """Remove one setting from ``tree``, in place."""
    *parents, leaf = location
    node: Any = tree
    for part in parents:
        node = node[part]
    del node[leaf]


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key. An empty mapping or list counts as a value."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree} if prefix else {}
    values: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        values |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return values


def _gives(keys: Iterable[str], key: str) -> bool:
    """Whether a layer that sets ``keys`` also sets ``key``.

    It does if it sets the same key, a key below it, or one above it (an empty mapping or null).
    """
    return any(
        given == key or given.startswith(f"{key}.") or key.startswith(f"{given}.") for given in keys
    )
