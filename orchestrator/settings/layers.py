"""Settings as plain data by dotted key, and which layer of a configuration gives one: a base, the
file over it, or the overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def inherited_from(
    layers: Sequence[dict[str, Any]], overrides: Sequence[str]
) -> Callable[[str, Sequence[str]], bool]:
    """Whether one dotted key comes from a lower layer than the highest of some others.

    ``layers`` are files, the lowest first; the overrides are the layer above them.
    """
    given = [set(flat(layer)) for layer in layers]
    given.append({override.partition("=")[0] for override in overrides})

    def layer_of(key: str) -> int:
        giving = (place for place, keys in enumerate(given) if _gives(keys, key))
        return max(giving, default=-1)

    return lambda key, others: layer_of(key) < max(map(layer_of, others))


def forget(tree: dict[str, Any], location: Sequence[str | int]) -> None:
    """Take one setting out, in place."""
    *parents, leaf = location
    node: Any = tree
    for part in parents:
        node = node[part]
    del node[leaf]


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values by dotted key; what is empty is a value."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree} if prefix else {}
    values: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        values |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return values


def _gives(keys: Iterable[str], key: str) -> bool:
    """An empty or whole mapping gives what is below it."""
    return any(
        given == key or given.startswith(f"{key}.") or key.startswith(f"{given}.") for given in keys
    )
