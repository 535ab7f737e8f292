"""GenEval: 553 prompts about objects that COCO knows, four images each.

An image is right or wrong. A task's score is the mean over its images, and the overall score is the
mean of the six tasks. No prompt of the suite is among the public training prompts. The authors'
detector is a Mask2Former of mmdet 2; the scorer says which detector took its place.

Source: the repository of GenEval at af4902f2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.suites.suite import Column, Item, Suite, image_means
from policy.errors import UserError
from policy.text_files import parse_json, read_text
from policy.types import Prompt

FILE = "geneval/evaluation_metadata.jsonl"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_DETECTOR = "the detector is not the authors' Mask2Former"


def load(folder: Path) -> list[Item]:
    """The prompts in the order of the authors' file, each with its whole row."""
    file = folder / FILE
    lines = read_text(file, f"{file} (eg-grpo data fetch downloads it)").split("\n")
    rows = [
        (number, parse_json(line, file, number))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return [_item(row, f"{file}:{number}", place) for place, (number, row) in enumerate(rows)]


def _item(row: Any, where: str, place: int) -> Item:
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f"{where}: not a row of GenEval: it has no prompt")
    if row.get("tag") not in TASKS:
        raise UserError(f"{where}: tag {row.get('tag')!r} is none of {', '.join(TASKS)}")
    prompt = Prompt(f"geneval:{place}", row["prompt"], row["tag"], evaluation=row)
    return Item(prompt, row["tag"], ("geneval",), number=place)


def official_name(item: Item, index: int, count: int) -> str:
    """``<line>/samples/<index>.png``, with five digits each, counted from 0."""
    return f"{item.number:05d}/samples/{index:05d}.png"


def _columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    overall = Column("overall", {task: 1 / len(tasks) for task in tasks}, not_comparable=_DETECTOR)
    return (*(Column(task, {task: 1.0}, not_comparable=_DETECTOR) for task in tasks), overall)


GENEVAL = Suite(
    name="geneval",
    about="GenEval: objects, counts, colours and positions, by an object detector",
    images_per_prompt=4,
    load=load,
    columns=_columns(TASKS),
    measure=image_means,
    official_name=official_name,
    lists={"prompts": "evaluation_metadata.jsonl of af4902f2"},
)
