"""Text that people wrote, read alike everywhere, and JSON that says one thing only.

Python's own readers let pass what gives other numbers: a byte-order mark becomes part of the first
line, the first of two equal keys is lost, NaN is a number, and ``"\\ud83d"`` becomes text that no
file can hold.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

from policy.errors import UserError

_MARK = "\ufeff"  # the byte-order mark of UTF-8, decoded
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that draw nothing
_KEY_OR_BRACE = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}]')


def read_text(path: Path, named: str | None = None) -> str:
    """The text of ``path``: UTF-8, lines that end in ``\\n``, without byte-order marks.

    A mark before a line is no text either: that is where another file was put behind the first.
    Raises ``UserError`` that calls the file ``named`` (default: its path), and with the line of the
    first byte that is no UTF-8.
    """
    named = named or str(path)
    if not is_writable(str(path)):
        raise UserError(f"{str(path)!a}: the path is no text that can be written")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{named} does not exist") from None
    except OSError as error:
        raise UserError(f"{named} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{named!a} cannot be read: {error}") from None
    return decoded(content, path)


def decoded(content: bytes, path: Path) -> str:
    """The text of bytes that were read from ``path``, as ``read_text``."""
    try:
        text = _one_line_end(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = _one_line_end(content[: error.start].decode("utf-8"))
        line = before.count("\n") + 1
        raise UserError(f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8") from None
    return text.removeprefix(_MARK).replace(f"\n{_MARK}", "\n")


def read_json(path: Path, named: str | None = None) -> Any:
    """The one JSON value in ``path``; raises ``UserError`` as ``read_text`` and ``parse_json``."""
    return parse_json(read_text(path, named), path)


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """The JSON value of ``text``, which stands at ``line`` of ``path``.

    Raises ``UserError`` with file and line for what is not JSON, NaN and infinity among it, for a
    key that an object has twice, at any depth, and for half a surrogate pair.
    """
    try:
        value = _DECODER.decode(text)
        place = unwritable(value)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{line + error.lineno - 1}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number or a depth beyond Python's
        raise UserError(f"{path}:{line}: not JSON: {error}") from None
    if repeated := _repeated_key(text):
        key, start = repeated
        line += text.count("\n", 0, start)
        raise UserError(f"{path}:{line}: key {key!r} is there twice")
    if place is not None:
        raise UserError(f"{path}:{line}: {place} holds half a surrogate pair")
    return value


def is_writable(text: str) -> bool:
    """Whether the text can be written to a file: half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def stripped(text: str) -> str:
    """Without the blanks, control and zero-width characters around it."""
    start, end = 0, len(text)
    while start < end and _is_margin(text[start]):
        start += 1
    while end > start and _is_margin(text[end - 1]):
        end -= 1
    return text[start:end]


def is_visible(text: str) -> bool:
    """Whether any of it can be seen: not so of blanks, zero-width characters and lone accents."""
    return any(
        not _is_margin(character)
        and character not in _BLANK_LETTERS
        and unicodedata.category(character) != "Mn"
        for character in text
    )


def unwritable(value: Any, place: str = "") -> str | None:
    """Where in mappings and lists stands a text, or a key, that cannot be written."""
    if isinstance(value, str):
        return None if is_writable(value) else place or "the text"
    if isinstance(value, dict):
        for key, inner in value.items():
            below = f"{place}.{key}" if place else str(key)
            if not is_writable(below):
                return f"key {below!a}"
            if found := unwritable(inner, below):
                return found
    if isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            if found := unwritable(inner, f"{place}[{index}]"):
                return found
    return None


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_margin(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")


def _refuse_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_number(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_number, parse_float=_finite)


def _repeated_key(text: str) -> tuple[str, int] | None:
    """The first key of sound JSON that its object already has, and where it starts."""
    objects: list[set[str]] = []
    for token in _KEY_OR_BRACE.finditer(text):
        if token[0] == "{":
            objects.append(set())
        elif token[0] == "}":
            objects.pop()
        elif token[2]:
            key = _DECODER.decode(token[1])
            if key in objects[-1]:
                return key, token.start()
            objects[-1].add(key)
    return None
