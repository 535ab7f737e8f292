"""A table of the scores that GroundingDINO's three variants give for the same boxes.

``python -m rewards.detection.variants_table`` prints it. The boxes are written down by hand. So the
table shows the formulas, and no model is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy.types import NumeracyItem, Prompt, SpatialInfo
from rewards.detection.caption import detection_prompt, published_detection_prompt
from rewards.detection.detection_score import VARIANTS, Found, Variant, detection_score

_Box = tuple[float, float, float, float]
_LEFT, _RIGHT = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2)
_TOP, _BOTTOM = (0.5, 0.2, 0.2, 0.2), (0.5, 0.8, 0.2, 0.2)
_RIGHT_AGAIN = (0.81, 0.5, 0.2, 0.2)


@dataclass(frozen=True)
class Case:
    """A prompt and boxes that were found: ``boxes[noun]`` is centred, best first."""

    fault: str
    what: str
    prompt: Prompt
    boxes: dict[str, tuple[_Box, ...]]

    def score(self, variant: Variant) -> float:
        """The score of a variant. As published, the boxes of a noun get the name it gives them."""
        if variant == "corrected":
            names = nouns = detection_prompt(self.prompt).names
        else:
            names, nouns = published_detection_prompt(self.prompt).names, self.prompt.nouns
        found = [_found(n, self.boxes[noun]) for n, noun in zip(names, nouns, strict=True)]
        return detection_score(found, self.prompt, variant)


def _found(name: str, boxes: tuple[_Box, ...]) -> Found:
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return Found(name, np.array(boxes, dtype=np.float32).reshape(-1, 4), scores)


def _spatial_prompt(locality: str) -> Prompt:
    info = SpatialInfo("car", "zebra", locality)
    return Prompt("case", f"a car {locality} a zebra", "spatial", ("car", "zebra"), (), info)


def _numeracy_prompt(text: str, number: int) -> Prompt:
    return Prompt("case", text, "numeracy", ("owl",), (), None, (NumeracyItem("owl", number),))


def _objects_prompt(text: str, *nouns: str) -> Prompt:
    return Prompt("case", text, "complex", nouns)


CASES = (
    Case("", "one box each, car left, zebra right", _spatial_prompt("left of"),
         {"car": (_LEFT,), "zebra": (_RIGHT,)}),
    Case("", "the same, sides exchanged", _spatial_prompt("left of"),
         {"car": (_RIGHT,), "zebra": (_LEFT,)}),
    Case("", "no zebra", _spatial_prompt("left of"), {"car": (_LEFT,), "zebra": ()}),
    Case("", "a second zebra at the top", _spatial_prompt("left of"),
         {"car": (_LEFT,), "zebra": (_RIGHT, _TOP)}),
    Case("R1", "car at the top, zebra at the bottom", _spatial_prompt("above"),
         {"car": (_TOP,), "zebra": (_BOTTOM,)}),
    Case("R2", "in opposite corners", _spatial_prompt("next to"),
         {"car": ((0.1, 0.1, 0.1, 0.1),), "zebra": ((0.9, 0.9, 0.1, 0.1),)}),
    Case("R3", "one owl, two queries on it", _numeracy_prompt("an owl", 1),
         {"owl": ((0.5, 0.5, 0.1, 0.1), (0.505, 0.5, 0.1, 0.1))}),
    Case("R3", "two owls apart, one query each", _numeracy_prompt("two owls", 2),
         {"owl": (_LEFT, _RIGHT)}),
    Case("R4", "one zebra, two queries on it", _spatial_prompt("left of"),
         {"car": (_LEFT,), "zebra": (_RIGHT, _RIGHT_AGAIN)}),
    Case("R4", "two gloves", _objects_prompt("rubber gloves", "rubber glove"),
         {"rubber glove": (_LEFT, _RIGHT)}),
    Case("R4", "two shoes, two boots",
         _objects_prompt("The brown shoes were next to the black boots.", "shoes", "boots"),
         {"shoes": (_LEFT, _RIGHT), "boots": (_TOP, _BOTTOM)}),
    Case("R4", "two cats, two dogs", _objects_prompt("two cats, a dog", "cat", "dog"),
         {"cat": (_LEFT, _RIGHT), "dog": (_TOP, _BOTTOM)}),
    Case("", "two chairs", _objects_prompt("a chair", "chair"), {"chair": (_LEFT, _RIGHT)}),
    Case("R5", "one cone", _objects_prompt("an ice cream cone", "ice cream cone"),
         {"ice cream cone": (_LEFT,)}),
    Case("R6", "one umbrella",
         _objects_prompt("a red umbrella on a black umbrella stand", "umbrella", "umbrella"),
         {"umbrella": (_LEFT,)}),
)  # fmt: skip


def table() -> str:
    """The cases as Markdown."""
    header = ["fault", "prompt", "found", *VARIANTS]
    rows = [
        [case.fault, case.prompt.text, case.what, *(f"{case.score(v):.2f}" for v in VARIANTS)]
        for case in CASES
    ]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
