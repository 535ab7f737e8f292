"""Reads prompt files: JSON Lines, one prompt a line, in the format of the public training file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policy.errors import UserError
from policy.text_files import is_visible, parse_json, read_text, stripped
from policy.types import NumeracyItem, Prompt, SpatialInfo


def load_prompts(path: Path) -> list[Prompt]:
    """Read every row of ``path``.

    A prompt's id is ``<file stem>:<line number>``. Blank lines are skipped. A broken row raises
    ``UserError`` with the file and the line; it is neither trained on nor silently left out.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(read_text(path, f"prompt file {path}").split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_json(line, path, number)
        try:
            prompts.append(prompt_from_row(row, f"{path.stem}:{number}"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}:{number}: {_reason(error)}") from None
    if not prompts:
        raise UserError(f"prompt file {path} holds no prompt")
    return prompts


def prompt_from_row(row: Any, prompt_id: str) -> Prompt:
    """Build a ``Prompt`` from one parsed JSON object; raises KeyError, TypeError or ValueError.

    The prompt's text is kept exactly as written. Names of objects lose invisible characters at
    their ends, because a detector has no tokens for them.
    """
    if not isinstance(row, dict):
        raise TypeError("expected a JSON object")
    text = _string(row["prompt"], "prompt")
    if not is_visible(text):
        raise ValueError("prompt is empty, or nothing of it can be seen")
    spatial = row.get("spatial_info")
    if spatial is not None:
        if not isinstance(spatial, dict):
            raise TypeError("spatial_info must be an object")
        spatial = SpatialInfo(
            *(_name(spatial[key], f"spatial_info.{key}") for key in ("obj1", "obj2", "locality"))
        )
    evaluation = row.get("evaluation")
    if evaluation is not None and not isinstance(evaluation, dict):
        raise TypeError("evaluation must be an object")
    return Prompt(
        id=prompt_id,
        text=text,
        task_type=_name(row["task_type"], "task_type"),
        nouns=_names(row, "nouns"),
        attr_nouns=_names(row, "attr_nouns"),
        spatial_info=spatial,
        numeracy_info=_numeracy(row.get("numeracy_info")),
        evaluation=evaluation,
    )


def _numeracy(items: Any) -> tuple[NumeracyItem, ...]:
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TypeError("numeracy_info must be a list of objects")
    return tuple(_numeracy_item(item) for item in items)


def _numeracy_item(item: dict[str, Any]) -> NumeracyItem:
    number = item["num"]
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"numeracy_info.num must be a whole number of 1 or more, not {number!r}")
    return NumeracyItem(_name(item["obj_name"], "numeracy_info.obj_name"), number)


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} must be a string, not {type(value).__name__}")
    return value


def _name(value: Any, key: str) -> str:
    text = _string(value, key)
    if not is_visible(text):
        raise ValueError(f"{key} is empty, or nothing of it can be seen: {text!a}")
    return stripped(text)


def _names(row: dict[str, Any], key: str) -> tuple[str, ...]:
    values = row.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise TypeError(f"{key} must be a list of strings")
    return tuple(_name(value, key) for value in values)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return str(error)
