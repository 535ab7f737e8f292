"""What must not be written or printed: known values, logins in URLs, tokens in their queries.

Files of settings are masked by structure (``masked_tree``), text by what is known (``masked``).
A value is known to the process that called ``hide``. One of fewer than ``_SHORTEST`` characters is
masked in files of settings alone: in text it would hide every 0 with CUDA_VISIBLE_DEVICES: "0".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy.errors import UserError

MASK = "***"
_SHORTEST = 4
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = r"token|secret|password|passwd|api[_-]?key|access[_-]?key|authorization|credentials?"
_LOGIN = re.compile(r'(?<=://)[^/\s"<>]+(?=@)')
_QUERY = re.compile(rf"([?&](?:[^=&#\s]*[_-])?(?:{_SECRET}|sig|signature)=)[^&#\s'\"<>]+", re.I)
# A whole name, or its last words; eos_token is none, and a tokenizer even less.
_SECRET_KEY = re.compile(
    r"(?:.*[_-])?(?:secret|password|passwd|(?:api|access|secret|private)[_-]?key|authorization)"
    r"|(?:access|auth|hf|api|bearer|refresh|session|scorer)[_-]?token|token|credentials?",
    re.I,
)
_known: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Have ``masked`` of this process mask these values from now on."""
    _known.update(value for value in values if len(value) >= _SHORTEST)


def masked(text: str) -> str:
    """The text with every secret masked that can be known to be one."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _masked_urls(text)


def masked_tree(tree: Any) -> Any:
    """Settings as plain data with their secrets masked.

    Those are all values below ``env_vars`` but references (``${NAME}``), text under names such as
    ``api_key``, and what URLs hold of them. What is masked cannot be read back.
    """
    return _masked_tree(tree, [])


def secrets_in(tree: Any) -> list[str]:
    """The values that ``masked_tree`` masks for their keys."""
    found: list[str] = []
    _masked_tree(tree, found)
    return found


def resolved(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with every ``${NAME}`` taken from this process's environment.

    Raises ``UserError`` that names the first key of which the variable is not set.
    """
    values = {}
    for name, value in variables.items():
        reference = _REFERENCE.fullmatch(value)
        if reference is not None and reference[1] not in os.environ:
            raise UserError(f"{name}: {value}: {reference[1]} is not set in the environment")
        values[name] = value if reference is None else os.environ[reference[1]]
    return values


def _masked_tree(tree: Any, found: list[str], key: str = "", secret: bool = False) -> Any:
    """``secret``: whether all text here is one."""
    secret = secret or _SECRET_KEY.fullmatch(key) is not None
    if isinstance(tree, dict):
        below = secret or key == "env_vars"
        return {name: _masked_tree(item, found, name, below) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_masked_tree(item, found, secret=secret) for item in tree]
    if tree is None or isinstance(tree, bool) or _REFERENCE.fullmatch(str(tree)):
        return tree
    if secret:
        found.append(str(tree))
        return MASK
    return _masked_urls(tree) if isinstance(tree, str) else tree


def _masked_urls(text: str) -> str:
    return _QUERY.sub(rf"\g<1>{MASK}", _LOGIN.sub(MASK, text))
