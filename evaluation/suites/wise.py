"""WISE: 1,000 prompts that need knowledge, one image each, scored by a vision language model.

There are two versions, whose scores cannot be compared. ``wise`` is the legacy version, which the
paper used: three scores from 0 to 2, WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetic
quality) / 2. ``wise-verified`` is the version of 2026 with about 200 other prompts: one score, 0 or
1. The programs of the authors skip answers that they cannot read; here such an answer is a failure
(``rewards.judge``).

The paper's table has three columns. ``Spatio-temporal`` is the mean of time and space, and
``Science`` that of biology, physics and chemistry, each from parts that were printed with two
decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.suites.suite import Column, Item, Suite, image_means
from policy.errors import UserError
from policy.text_files import read_json
from policy.types import Prompt


@dataclass(frozen=True)
class _Version:
    folder: str
    files: tuple[str, ...]
    last: Mapping[str, int]  # the last id of each stratum; ids begin with 1
    overall: Mapping[str, float]  # the weights of the overall score


_LEGACY = _Version(
    folder="wise_legacy",
    files=(
        "cultural_common_sense.json",
        "spatio-temporal_reasoning.json",
        "natural_science.json",
    ),
    last={
        "culture": 400,
        "time": 567,
        "space": 700,
        "biology": 800,
        "physics": 900,
        "chemistry": 1000,
    },
    overall={
        "culture": 0.4,
        "time": 0.167,
        "space": 0.133,
        "biology": 0.1,
        "physics": 0.1,
        "chemistry": 0.1,
    },
)
_VERIFIED = _Version(
    folder="wise_verified",
    files=(
        "cultural_common_sense_verified.json",
        "spatio-temporal_reasoning_verified.json",
        "natural_science_verified.json",
    ),
    last={
        "culture": 400,
        "time": 520,
        "space": 640,
        "biology": 760,
        "physics": 880,
        "chemistry": 1000,
    },
    overall={
        "culture": 0.4,
        "time": 0.12,
        "space": 0.12,
        "biology": 0.12,
        "physics": 0.12,
        "chemistry": 0.12,
    },
)


def stratum_of(number: int, version: _Version) -> str:
    """The category of a prompt id. Raises ``ValueError`` for an id that no category has."""
    if number >= 1:
        for stratum, last in version.last.items():
            if number <= last:
                return stratum
    raise ValueError(f"prompt_id {number} is not in 1 to 1000")


def load(folder: Path, version: _Version) -> list[Item]:
    """All prompts by id. Raises ``UserError`` when one is missing, twice there or malformed."""
    items: dict[int, Item] = {}
    for name in version.files:
        file = folder / version.folder / name
        rows = read_json(file, f"{file} (eg-grpo data fetch downloads it)")
        if not isinstance(rows, list):
            raise UserError(f"{file}: expected a JSON list of objects")
        for place, row in enumerate(rows, start=1):
            item = _item(row, f"{file}: item {place}", version)
            if item.number in items:
                raise UserError(f"{file}: item {place}: prompt_id {item.number} is there twice")
            items[item.number] = item
    missing = sorted(set(range(1, max(version.last.values()) + 1)) - items.keys())
    if missing:
        raise UserError(
            f"{folder / version.folder}: {len(missing)} prompts are missing, such as prompt_id"
            f" {missing[0]}"
        )
    return [items[number] for number in sorted(items)]


def _item(row: Any, where: str, version: _Version) -> Item:
    number = row.get("prompt_id") if isinstance(row, dict) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f"{where}: prompt_id must be a whole number")
    for key in ("Prompt", "Explanation"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: {key} must be text")
    try:
        stratum = stratum_of(number, version)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    known = {"explanation": row["Explanation"]}
    prompt = Prompt(f"{version.folder}:{number}", row["Prompt"], stratum, evaluation=known)
    return Item(prompt, stratum, ("judge",), number=number)


def official_name(item: Item, index: int, count: int) -> str:
    """``<prompt_id>.png``: the authors' programs know one image of each prompt."""
    return f"{item.number}.png" if count == 1 else f"{item.number}_{index}.png"


def _columns(version: _Version) -> tuple[Column, ...]:
    science = ("biology", "physics", "chemistry")
    return (
        Column("Culture", {"culture": 1.0}, decimals=2),
        Column("Spatio-temporal", {"time": 1 / 2, "space": 1 / 2}, decimals=2),
        Column("Science", dict.fromkeys(science, 1 / 3), decimals=2),
        *(Column(stratum, {stratum: 1.0}) for stratum in version.last),
        Column("overall", version.overall),
    )


WISE = Suite(
    name="wise",
    about="WISE as the paper used it: prompts that need knowledge, by a judge behind HTTP",
    images_per_prompt=1,
    load=partial(load, version=_LEGACY),
    columns=_columns(_LEGACY),
    measure=image_means,
    official_name=official_name,
    lists={"prompts": "WISE_legacy of eb511744"},
)
WISE_VERIFIED = Suite(
    name="wise-verified",
    about="WISE in its version of 2026, whose scores are not those of the paper's version",
    images_per_prompt=1,
    load=partial(load, version=_VERIFIED),
    columns=_columns(_VERIFIED),
    measure=image_means,
    official_name=official_name,
    lists={"prompts": "data_verified of eb511744"},
)
