"""Finds leaks: validation prompts that are also training prompts."""

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
    """One prompt of a benchmark and its place, ``file:line`` or ``file:item``."""

    place: str
    text: str


@dataclass(frozen=True)
class Leak:
    """A validation prompt and the training prompts with the same text."""

    validation: ValidationPrompt
    training: tuple[Prompt, ...]  # more than one if the training file repeats the prompt


def load_validation(path: Path) -> list[ValidationPrompt]:
    """Read the prompts of a benchmark file.

    A *.txt file holds one prompt a line. A *.json file holds a list of objects with the key
    ``Prompt``, as those of WISE do, and a *.jsonl file a line for each object with the key
    ``prompt``, as that of GenEval does. Raises ``UserError`` that names the file and the item or
    the line, counted from 1. Files of other kinds are refused, because no line of them would equal
    a prompt and leaks would stay hidden.
    """
    if path.suffix not in _READERS:
        raise UserError(
            f"validation file {path}: expected *.txt, one prompt a line, *.json, a list of objects"
            " with a Prompt, or *.jsonl, an object with a prompt in each line"
        )
    texts = _READERS[path.suffix](path, read_text(path, f"validation file {path}"))
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


def _lines(path: Path, text: str) -> list[str]:
    return text.split("\n")


def _objects(path: Path, text: str) -> list[str]:
    texts = []
    for number, line in enumerate(text.split("\n"), start=1):
        row = parse_json(line, path, number) if line.strip() else {"prompt": ""}
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise UserError(f"{path}:{number} is not an object with a prompt that is text")
        texts.append(row["prompt"])
    return texts


_READERS = {".txt": _lines, ".json": _listed, ".jsonl": _objects}


def find_leaks(training: Sequence[Prompt], validation: Iterable[ValidationPrompt]) -> list[Leak]:
    """The validation prompts that are also training prompts.

    Differences in case, spaces, zero-width characters and the final period do not count.
    """
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
