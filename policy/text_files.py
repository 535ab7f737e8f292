"""Reads text and JSON files strictly: a file that could be misread is an error, not a guess.

Python's own readers accept such files. They keep a byte-order mark as part of the first line, drop
the first of two equal keys, and read NaN as a number. They also turn ``"\\ud83d"``, half a
surrogate pair, into text that cannot be written to a file.
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
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols without any ink
_KEY_OR_BRACE = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}]')


def read_text(path: Path, named: str | None = None) -> str:
    """The text of a UTF-8 file, with ``\\n`` as line ends and without byte-order marks.

    A mark at the start of a later line is removed too. It is there when two files were joined.
    Raises ``UserError``, which calls the file ``named`` (default: its path), when the file cannot
    be read. If a byte is not UTF-8, the error gives the line of the first such byte.
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
    except ValueError as error:  # the path holds a NUL character
        raise UserError(f"{named!a} cannot be read: {error}") from None
    return decoded(content, path)


def decoded(content: bytes, path: Path) -> str:
    """The text of ``content``, the bytes of the file ``path``. See ``read_text``."""
    try:
        text = _one_line_end(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = _one_line_end(content[: error.start].decode("utf-8"))
        line = before.count("\n") + 1
        raise UserError(f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8") from None
    return text.removeprefix(_MARK).replace(f"\n{_MARK}", "\n")


def read_json(path: Path, named: str | None = None) -> Any:
    """The JSON value in ``path``. Raises ``UserError`` like ``read_text`` and ``parse_json``."""
    return parse_json(read_text(path, named), path)


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """The JSON value of ``text``, which begins at line ``line`` of the file ``path``.

    Raises ``UserError`` with file and line when the text is not JSON (NaN and infinity are not),
    when an object at any depth has a key twice, or when a string holds half a surrogate pair.
    """
    try:
        value = _DECODER.decode(text)
        place = unwritable(value)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{line + error.lineno - 1}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number too long or nested too deeply
        raise UserError(f"{path}:{line}: not JSON: {error}") from None
    if repeated := _repeated_key(text):
        key, start = repeated
        line += text.count("\n", 0, start)
        raise UserError(f"{path}:{line}: key {key!r} is there twice")
    if place is not None:
        raise UserError(f"{path}:{line}: {place} holds half a surrogate pair")
    return value


def is_writable(text: str) -> bool:
    """Whether the text can be written to a file. Half a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def stripped(text: str) -> str:
    """The text without blanks, control and zero-width characters at its two ends."""
    start, end = 0, len(text)
    while start < end and _is_margin(text[start]):
        start += 1
    while end > start and _is_margin(text[end - 1]):
        end -= 1
    return text[start:end]


def is_visible(text: str) -> bool:
    """Whether any character is visible. Blanks, zero-width characters and accents are not."""
    return any(
        not _is_margin(character)
        and character not in _BLANK_LETTERS
        and unicodedata.category(character) != "Mn"
        for character in text
    )


def unwritable(value: Any, place: str = "") -> str | None:
    """The place of the first text or key in plain data that cannot be written to a file.

    A place is written like ``rewards[0].name``. None means that all of it can be written.
    """
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
    """The first key of valid JSON that its object already has, and the offset of that key."""
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
