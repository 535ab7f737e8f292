"""The constants of the shapes world: sizes, colours, shapes, and the kinds that are held out."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SIZE = 32  # pixels
PATCH = 4  # pixels; one image token draws one patch of 4 x 4
LATTICE = PATCH  # the corners of objects lie on patch borders, which keeps distinct patches few
BACKGROUND = (245, 245, 245)
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (160, 60, 190),
    "cyan": (60, 200, 220),
}
# Each shape with its plural.
SHAPES = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
SIZES = {"small": 8, "large": 12}  # pixels
NUMBERS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True, order=True)
class Kind:
    """A colour and a shape. ``str(Kind("red", "circle"))`` is "red circle"."""

    colour: str
    shape: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ValueError(f"unknown colour {self.colour!r}")
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}")

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def plural(self) -> str:
        return f"{self.colour} {SHAPES[self.shape]}"


# The policy never sees these kinds, in image or text, in pretraining or RL. It sees every colour
# and every shape in other kinds. Evaluation on held-out kinds thus measures generalisation.
HELD_OUT_KINDS = (
    Kind("red", "triangle"),
    Kind("blue", "cross"),
    Kind("yellow", "circle"),
    Kind("purple", "square"),
    Kind("green", "circle"),
    Kind("cyan", "triangle"),
)
SEEN_KINDS = tuple(
    kind for kind in (Kind(c, s) for c in COLOURS for s in SHAPES) if kind not in HELD_OUT_KINDS
)
