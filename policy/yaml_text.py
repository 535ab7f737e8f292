"""YAML as settings are written in it: nothing in a file is dropped or read otherwise than it looks.

YAML 1.1 lets the later of two equal keys win, reads 1e-3 as text, 010 as 8, 1:30 as 90 and
2026-11-26 as a date. Here the first is refused, 1e-3 is a number, the next two are refused as what
can be meant in two ways, and the last is text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from policy.errors import UserError

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)"
)
_AMBIGUOUS = re.compile(r"[-+]?0[0-9_]+|.*:.*")


def parse(text: str, source: str) -> Any:
    """Plain data; raises ``UserError`` with ``source`` and line for what is not clear YAML."""
    try:
        loader = _Loader(text)
        try:
            return _unshared(loader.get_single_data())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source if mark is None else f"{source}:{mark.line + 1}"
        kind = "" if isinstance(error, _Unclear) else "not YAML: "
        raise UserError(f"{place}: {kind}{' '.join(str(error.problem).split())}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError):
        # Of PyYAML: digits without end, and values that do not fit their tag, which may be secret.
        raise UserError(f"{source}: not YAML: a value that cannot be read") from None
    except RecursionError:
        raise UserError(f"{source}: not YAML: nested too deeply") from None


def dump(tree: Any) -> str:
    """``parse`` reads the same back; keys stay in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def _unshared(tree: Any) -> Any:
    """What stands behind several aliases, once for each: who changes one means that one."""
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(item) for item in tree] if isinstance(tree, list) else tree


class _Unclear(yaml.constructor.ConstructorError):
    """What YAML allows, and a file of settings must not hold."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.deep_construct = True  # so that an anchor inside itself is an error
        self._checked: set[yaml.Node] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Before keys are merged into the node: those may repeat what is there, and lose."""
        if node in self._checked:  # and merged: an anchor's node is seen again where it is used
            return
        self._checked.add(node)
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in first:
                raise _Unclear(f"key {key} is there twice, first in line {first[key]}", key_node)
            first[key] = line
        super().flatten_mapping(node)

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise _Unclear("a key must be text, not a list or a mapping", node)
        if node.tag not in (_TAG + "str", _TAG + "merge", _TAG + "value"):
            kind = node.tag.removeprefix(_TAG)
            raise _Unclear(f"key {node.value!r} is read as {kind}, not as text: quote it", node)
        return str(node.value)

    def clear_number(self, node: yaml.ScalarNode) -> int | float:
        if _AMBIGUOUS.fullmatch(node.value):
            raise _Unclear(
                "a number of base 8 or 60 to some programs and not to others:"
                " write it in decimals, or quote it",
                node,
            )
        construct = (
            self.construct_yaml_int if node.tag == _TAG + "int" else self.construct_yaml_float
        )
        return construct(node)


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``_Loader`` would read as something else."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), "-+0123456789.")
for _kind in ("int", "float"):
    _Loader.add_constructor(_TAG + _kind, _Loader.clear_number)
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
