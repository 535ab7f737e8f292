"""Reads and writes YAML settings strictly, so that a file means what it seems to say.

YAML 1.1 has surprises. This reader treats them as follows:
- two equal keys: YAML keeps the later one; here they are an error
- 1e-3: YAML reads text; here it is a number
- 010 and 1:30: YAML reads 8 and 90; here they are errors, because they can be meant in two ways
- 2026-11-26: YAML reads a date; here it is text
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
    """The plain data in ``text``. Raises ``UserError`` with source and line for unclear YAML."""
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
        # PyYAML raises these for numbers of too many digits and for values that do not fit their
        # tag. Its message would show the value, which may be a secret.
        raise UserError(f"{source}: not YAML: a value that cannot be read") from None
    except RecursionError:
        raise UserError(f"{source}: not YAML: nested too deeply") from None


def dump(tree: Any) -> str:
    """The data as YAML text. ``parse`` reads the same data back, with the keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def _unshared(tree: Any) -> Any:
    """A copy in which each alias has data of its own, so that changing one changes no other."""
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(item) for item in tree] if isinstance(tree, list) else tree


class _Unclear(yaml.constructor.ConstructorError):
    """An error for something that YAML allows and a settings file must not contain."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.deep_construct = True  # refuses an anchor that contains itself
        self._checked: set[yaml.Node] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse equal keys. This runs before ``<<`` merges keys, which may repeat own keys."""
        # PyYAML passes an anchor's node again at each alias. Its keys are merged by then, and would
        # look repeated.
        if node in self._checked:
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
    """Quotes text that ``_Loader`` would not read as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), "-+0123456789.")
for _kind in ("int", "float"):
    _Loader.add_constructor(_TAG + _kind, _Loader.clear_number)
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
