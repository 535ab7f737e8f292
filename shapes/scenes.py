"""Samples requests and scenes at random, and writes the chain of thought for a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import Generator

from shapes.request import LOCALITY_DIRECTIONS, TASKS, Request, holds
from shapes.world import COLOURS, IMAGE_SIZE, LATTICE, NUMBERS, SEEN_KINDS, SHAPES, SIZES, Kind

T = TypeVar("T")

TASK_SHARES = (0.10, 0.25, 0.40, 0.25)  # in the order of TASKS
MIN_GAP = 2  # pixels between bounding boxes
_ERRORS = {
    "object": ("colour", "shape"),
    "color": ("colour", "shape"),
    "spatial": ("colour", "shape", "relation"),
    "numeracy": ("colour", "shape", "count"),
}
_NUMBER_WORDS = {number: word for word, number in NUMBERS.items()}


@dataclass(frozen=True)
class Item:
    """One object of a scene. (x, y) is the top left corner of its box, in pixels."""

    kind: Kind
    size: str
    x: int
    y: int

    @property
    def pixels(self) -> int:
        return SIZES[self.size]

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.pixels / 2, self.y + self.pixels / 2


@dataclass(frozen=True)
class Scene:
    """A request, and the items drawn for it in the order in which the request names them."""

    request: Request
    items: tuple[Item, ...]


def sample_request(rng: Generator, required: Sequence[Kind] | None = None) -> Request:
    """A random request; its task is drawn with the probabilities ``TASK_SHARES``.

    One of its kinds is drawn from ``required`` and the other from ``SEEN_KINDS``. With ``None``
    both are from ``SEEN_KINDS``. The two kinds of a request always differ in colour.
    """
    task = TASKS[rng.choice(len(TASKS), p=TASK_SHARES)]
    kinds = [_pick(rng, required or SEEN_KINDS)]
    if task in ("color", "spatial"):
        kinds.append(_pick(rng, [kind for kind in SEEN_KINDS if kind.colour != kinds[0].colour]))
        if rng.random() < 0.5:
            kinds.reverse()
    return Request(
        task,
        tuple(kinds),
        locality=_pick(rng, list(LOCALITY_DIRECTIONS)) if task == "spatial" else None,
        number=int(rng.choice(list(NUMBERS.values()))) if task == "numeracy" else 1,
    )


def sample_scene(request: Request, rng: Generator) -> Scene:
    """Place the requested objects at random. Objects of one kind have one size."""
    kinds = request.kinds * request.number
    sizes = [_pick_size(rng) for _ in request.kinds] * request.number
    while True:
        items: list[Item] = []
        for kind, size in zip(kinds, sizes, strict=True):
            item = _place(kind, size, items, rng)
            if item is None:
                break
            items.append(item)
        if len(items) == len(kinds) and _as_asked(request, items):
            return Scene(request, tuple(items))
        if request.number > 3:  # there is rarely room for four large objects: draw another size
            sizes = [_pick_size(rng)] * request.number


def spoil(scene: Scene, rng: Generator) -> Scene:
    """A copy of the scene with one error in its colour, shape, relation or count.

    The request stays the same, so that the items no longer match it. New kinds are from
    ``SEEN_KINDS``.
    """
    items = list(scene.items)
    error = _pick(rng, _ERRORS[scene.request.task])
    if error == "relation":
        first, second = items
        items = [replace(second, kind=first.kind), replace(first, kind=second.kind)]
    elif error == "count":
        more = _place(items[0].kind, items[0].size, items, rng) if len(items) < 4 else None
        if more is not None and (len(items) == 2 or rng.random() < 0.5):
            items.append(more)
        else:
            items.pop()
    else:
        old = _pick(rng, items).kind
        used = {item.kind.colour for item in items}
        kind = _pick(rng, [k for k in SEEN_KINDS if _differs_in(k, old, error, used)])
        items = [replace(item, kind=kind) if item.kind == old else item for item in items]
    return Scene(scene.request, tuple(items))


def describe_scene(scene: Scene) -> str:
    """The chain of thought for a scene: size, colour, shape and place of every item.

    Example: "a small cyan cross at the top left and a large purple square at the bottom".
    """
    first = scene.items[0]
    if scene.request.task == "numeracy":
        places = " , ".join(_place_words(item) for item in scene.items)
        if len(scene.items) == 1:
            return f"a {first.size} {first.kind} at the {places}"
        return f"{_NUMBER_WORDS[len(scene.items)]} {first.size} {first.kind.plural} at the {places}"
    return " and ".join(
        f"a {item.size} {item.kind} at the {_place_words(item)}" for item in scene.items
    )


def vocabulary() -> list[str]:
    """All words that occur in prompts, instructions and chains of thought, sorted."""
    sentences = ['visualize : " " . , a photo of and at the center top bottom left right']
    sentences += [*COLOURS, *SHAPES, *SHAPES.values(), *SIZES, *NUMBERS, *LOCALITY_DIRECTIONS]
    return sorted({word for sentence in sentences for word in sentence.split()})


def _pick(rng: Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _pick_size(rng: Generator) -> str:
    return _pick(rng, list(SIZES))


def _place(kind: Kind, size: str, items: Sequence[Item], rng: Generator) -> Item | None:
    corners = (IMAGE_SIZE - SIZES[size]) // LATTICE + 1
    for _ in range(30):
        item = Item(kind, size, *(int(i) * LATTICE for i in rng.integers(corners, size=2)))
        if all(_gap(item, other) >= MIN_GAP for other in items):
            return item
    return None


def _gap(one: Item, other: Item) -> int:
    return max(
        one.x - other.x - other.pixels,
        other.x - one.x - one.pixels,
        one.y - other.y - other.pixels,
        other.y - one.y - one.pixels,
    )


def _as_asked(request: Request, items: Sequence[Item]) -> bool:
    if request.locality is None:
        return True
    (x1, y1), (x2, y2) = (item.centre for item in items)
    return holds(request.locality, x1 - x2, y1 - y2)


def _differs_in(kind: Kind, old: Kind, what: str, used_colours: set[str]) -> bool:
    if what == "colour":
        return kind.shape == old.shape and kind.colour not in used_colours
    return kind.colour == old.colour and kind.shape != old.shape


def _place_words(item: Item) -> str:
    x, y = item.centre
    vertical = "top" if y < 12.5 else "bottom" if y > 19.5 else ""
    horizontal = "left" if x < 12.5 else "right" if x > 19.5 else ""
    return f"{vertical} {horizontal}".strip() or "center"
