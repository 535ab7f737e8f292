"""GenEval's rules: does an image hold what its prompt asks for, by the boxes that were found?

Boxes are corners in pixels, y downwards. Source: djghosh13/geneval af4902f2,
``evaluation/evaluate_images.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.detection.boxes import Boxes

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
COUNTING = "counting"  # the tag of prompts whose objects must be found with more certainty
_MOST_BOXES = 16
_REDUCED_BY = 0.1  # share of both sizes by which an offset is reduced
_SAME_PLACE = 1e-3  # pixels

ColoursOf = Callable[[str, Boxes], Sequence[str]]


@dataclass(frozen=True)
class Clause:
    """One object that a prompt asks for, or asks to be absent.

    Example: ``Clause("tie", 1, None, ("above", 0))``, a tie above the object of clause 0.
    """

    name: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Request:
    """A row of GenEval's ``evaluation_metadata.jsonl``. All of ``include`` must hold, and none of
    ``exclude``."""

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that must be looked for, each once."""
        return tuple(dict.fromkeys(clause.name for clause in self.include + self.exclude))


def parse_request(row: Mapping[str, Any]) -> Request:
    """The request of a row. Raises ``ValueError`` that says what is wrong with it."""
    tag = row.get("tag")
    if not isinstance(tag, str):
        raise ValueError("'tag' is not a text")
    include, exclude = (_clauses(row.get(key, []), key) for key in ("include", "exclude"))
    if not include:
        raise ValueError("'include' names nothing")
    return Request(tag, include, exclude)


def best_boxes(boxes: Boxes, scores: NDArray[np.float32], threshold: float) -> Boxes:
    """The boxes of one class above the threshold, best first, at most 16 of them."""
    order = np.argsort(scores)[::-1]
    order = order[scores[order] > threshold][:_MOST_BOXES]
    return boxes[order]


def relations(box: Boxes, target: Boxes) -> set[str]:
    """The relations of a box (4) to a target (4). There may be none, or two at once.

    The offset of the centres is reduced by a tenth of both sizes, and compared with half of its
    own length before the reduction.
    """
    corners = np.stack((box, target)).astype(np.float64).reshape(2, 2, 2)
    offset = corners[0].mean(axis=0) - corners[1].mean(axis=0)
    sizes = np.abs(corners[:, 1] - corners[:, 0]).sum(axis=0)
    reduced = np.maximum(np.abs(offset) - _REDUCED_BY * sizes, 0) * np.sign(offset)
    if (np.abs(reduced) < _SAME_PLACE).all():
        return set()
    dx, dy = reduced / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, held in holds.items() if held}


def is_correct(request: Request, found: Mapping[str, Boxes], colours_of: ColoursOf) -> bool:
    """Whether the image holds what the request asks for.

    ``found`` has the boxes of each class, best first. ``colours_of`` names the colour of each box
    of a class; it is asked only where a clause has a colour and enough boxes.
    """
    matched: list[Boxes | None] = []
    for clause in request.include:
        boxes = found[clause.name][: clause.count]
        holds = len(boxes) == clause.count
        if holds and clause.colour is not None:
            holds = list(colours_of(clause.name, boxes)).count(clause.colour) >= clause.count
        if holds and clause.position is not None:
            relation, place = clause.position
            targets = matched[place]
            holds = targets is not None and all(
                relation in relations(box, target) for box in boxes for target in targets
            )
        matched.append(boxes if holds else None)
    too_many = any(len(found[clause.name]) >= clause.count for clause in request.exclude)
    return not too_many and all(boxes is not None for boxes in matched)


def _clauses(rows: Any, key: str) -> tuple[Clause, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{key!r} is not a list of objects")
    return tuple(_clause(row, number, key) for number, row in enumerate(rows))


def _clause(row: Mapping[str, Any], number: int, key: str) -> Clause:
    place = f"{key}[{number}]"
    name, count, colour = row.get("class"), row.get("count"), row.get("color")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: 'class' is not a name")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{place}: 'count' is {count!r}, not a whole number of 1 or more")
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"{place}: 'color' {colour!r} is not one of {', '.join(COLOURS)}")
    position = row.get("position")
    if position is None:
        return Clause(name, count, colour)
    if not isinstance(position, list) or len(position) != 2 or position[0] not in RELATIONS:
        raise ValueError(f"{place}: 'position' {position!r} is not a relation and a clause")
    if position[1] not in range(number):
        raise ValueError(f"{place}: 'position' names clause {position[1]!r}, which is not earlier")
    return Clause(name, count, colour, (position[0], position[1]))
