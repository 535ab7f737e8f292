"""Validation prompts that training shows as well."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policy.errors import UserError
from policy.text_files import parse_json, read_text
from policy.types import Prompt


@dataclass(frozen=True)
class ValidationPrompt:
    """One prompt of a benchmark and where it stands, ``file:line`` or ``file:item``."""

    place: str
    text: str


@dataclass(frozen=True)
class Leak:
    """A validation prompt and the training prompts that are the same."""

    validation: ValidationPrompt
    training: tuple[Prompt, ...]  # more than one where the file repeats it


def load_validation(path: Path) -> list[ValidationPrompt]:
    """Read one prompt a line (*.txt), or a JSON list of objects with ``Prompt`` (*.json, as WISE).

    Raises ``UserError`` that names the file, and in a list the item, counted from 1. A file of
    another kind is refused: read as lines it would hide every leak.
    """
    if path.suffix not in (".txt", ".json"):
        raise UserError(
            f"validation file {path}: expected *.txt, one prompt a line, or *.json, a list of"
            " objects with a Prompt"
        )
    text = read_text(path, f"validation file {path}")
    texts = _listed(path, text) if path.suffix == ".json" else text.split("\n")
    prompts = [
        ValidationPrompt(f"{path.name}:{number}", line.strip())
        for number, line in enumerate(texts, start=1)
        if line.strip()
    ]
    if not prompts:
        raise UserError(f"validation file {path} holds no prompt")
    return prompts


def _listed(path: Path, text: str) -> list[str]:
    items = parse_json(text, path)
    if not isinstance(items, list):
        raise UserError(f"{path}: expected a JSON list of objects with a Prompt")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not isinstance(item.get("Prompt"), str):
            raise UserError(f"{path}: item {number} is not an object with a Prompt that is text")
    return [item["Prompt"] for item in items]


def find_leaks(training: Sequence[Prompt], validation: Iterable[ValidationPrompt]) -> list[Leak]:
    """Validation prompts that are training prompts but for case, spaces, zero-width characters and
    the final period."""
    trained: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in training:
        trained[_normalised(prompt.text)].append(prompt)
    return [
        Leak(prompt, tuple(trained[key]))
        for prompt in validation
        if (key := _normalised(prompt.text)) in trained
    ]


def _normalised(text: str) -> str:
    shown = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(shown.lower().split()).rstrip(". ")
