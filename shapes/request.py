"""A request: what a prompt of the shapes world asks for, and its row in a prompt file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policy.prompts import prompt_from_row
from policy.types import Prompt
from shapes.world import NUMBERS, Kind

TASKS = ("object", "color", "spatial", "numeracy")  # task types of the public training file
# Each relation with its direction (x, y) in pixels; y grows downwards.
LOCALITY_DIRECTIONS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}


@dataclass(frozen=True)
class Request:
    """The objects that a prompt asks for.

    The tasks ``object`` and ``numeracy`` ask for one kind, ``color`` and ``spatial`` for two.
    Example: ``Request("spatial", (Kind("red", "circle"), Kind("blue", "square")), "above")``.
    """

    task: str
    kinds: tuple[Kind, ...]
    locality: str | None = None  # for spatial: where the first kind is, seen from the second
    number: int = 1  # for numeracy: how many objects of the kind

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"the shapes world has no task type {self.task!r}")
        wanted = 2 if self.task in ("color", "spatial") else 1
        if len(self.kinds) != wanted:
            raise ValueError(f"task {self.task} needs {wanted} objects, not {len(self.kinds)}")
        if self.task == "spatial" and self.locality not in LOCALITY_DIRECTIONS:
            raise ValueError(f"unknown relation {self.locality!r}")
        if self.number < 1:
            raise ValueError(f"cannot draw {self.number} objects")

    @property
    def text(self) -> str:
        """The text of the prompt."""
        first = f"a {self.kinds[0]}"
        if self.task == "numeracy":
            words = {number: word for word, number in NUMBERS.items()}
            first = f"{words[self.number]} {self.kinds[0].plural}"
        joint = {"color": "and", "spatial": self.locality}.get(self.task)
        second = f" {joint} a {self.kinds[1]}" if joint else ""
        return f"a photo of {first}{second}"

    def row(self) -> dict[str, Any]:
        """The request as a row of a prompt file, in the format of the public training file."""
        names = [str(kind) for kind in self.kinds]
        row: dict[str, Any] = {
            "prompt": self.text,
            "nouns": [kind.shape for kind in self.kinds],
            "attr_nouns": names,
        }
        if self.task == "spatial":
            row["spatial_info"] = {"obj1": names[0], "obj2": names[1], "locality": self.locality}
        if self.task == "numeracy":
            row["numeracy_info"] = [{"obj_name": self.kinds[0].shape, "num": self.number}]
        return row | {"task_type": self.task}

    def prompt(self, prompt_id: str = "shapes") -> Prompt:
        """The request as a ``Prompt``."""
        return prompt_from_row(self.row(), prompt_id)


def holds(locality: str, dx: float, dy: float) -> bool:
    """Whether the first of two objects is ``locality`` the second.

    (dx, dy) is the way from the centre of the second object to that of the first, in pixels. It
    must be at least 2 pixels in the direction of the relation. The part across that direction may
    be at most 2 pixels longer than the part along it.
    """
    along_x, along_y = LOCALITY_DIRECTIONS[locality]
    along = along_x * dx + along_y * dy
    across = abs(along_y * dx) + abs(along_x * dy)
    return along >= 2 and along >= across - 2


def parse_request(prompt: Prompt) -> Request:
    """The request of a prompt. Raises ``ValueError`` when this world cannot draw what it asks."""
    kinds = tuple(_kind(name) for name in prompt.attr_nouns)
    if prompt.task_type == "spatial":
        if prompt.spatial_info is None:
            raise ValueError("a spatial prompt needs spatial_info")
        info = prompt.spatial_info
        return Request("spatial", (_kind(info.obj1), _kind(info.obj2)), info.locality)
    if prompt.task_type == "numeracy":
        if len(prompt.numeracy_info) != 1:
            raise ValueError("a numeracy prompt needs exactly one entry in numeracy_info")
        return Request("numeracy", kinds, number=prompt.numeracy_info[0].num)
    return Request(prompt.task_type, kinds)


def _kind(name: str) -> Kind:
    words = name.split()
    if len(words) != 2:
        raise ValueError(f"{name!r} is not a colour and a shape")
    return Kind(*words)
