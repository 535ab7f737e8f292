"""Masks secrets, so that no file and no log line shows them.

Secrets are the values passed to ``hide``, logins in URLs and tokens in the queries of URLs.
``masked_tree`` masks settings by their keys. ``masked`` masks text; it knows the values that this
process has passed to ``hide``. Values of fewer than ``_SHORTEST`` characters are masked in settings
only. In text they would hide too much: CUDA_VISIBLE_DEVICES: "0" would hide every 0.
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
# The whole key, or its last words, must match. ``eos_token`` and ``tokenizer`` are no secrets.
_SECRET_KEY = re.compile(
    r"(?:.*[_-])?(?:secret|password|passwd|(?:api|access|secret|private)[_-]?key|authorization)"
    r"|(?:access|auth|hf|api|bearer|refresh|session|scorer)[_-]?token|token|credentials?",
    re.I,
)
_known: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Make ``masked`` mask these values from now on, in this process."""
    _known.update(value for value in values if len(value) >= _SHORTEST)


def masked(text: str) -> str:
    """The text with hidden values, logins in URLs and tokens in URL queries masked."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _masked_urls(text)


def without_login(url: str) -> str:
    """The address with its login and the tokens in its query masked, and nothing else: it is to be
    used again, and a hidden value may be a part of a path."""
    return _masked_urls(url)


def masked_tree(tree: Any) -> Any:
    """Settings as plain data with their secrets masked.

    Masked are the values below ``env_vars``, values under keys such as ``api_key``, and logins and
    tokens in URLs. A reference (``${NAME}``) is not masked, because it holds no secret. A masked
    value is lost: it cannot be read back from the file.
    """
    return _masked_tree(tree, [])


def secrets_in(tree: Any) -> list[str]:
    """The values that ``masked_tree`` masks because of their keys."""
    found: list[str] = []
    _masked_tree(tree, found)
    return found


def resolved(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, with each ``${NAME}`` replaced from this process's environment.

    Raises ``UserError`` that names the first key whose variable is not set.
    """
    values = {}
    for name, value in variables.items():
        reference = _REFERENCE.fullmatch(value)
        if reference is not None and reference[1] not in os.environ:
            raise UserError(f"{name}: {value}: {reference[1]} is not set in the environment")
        values[name] = value if reference is None else os.environ[reference[1]]
    return values


def _masked_tree(tree: Any, found: list[str], key: str = "", secret: bool = False) -> Any:
    """Mask below one key. ``secret`` says that every value below it is a secret."""
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
