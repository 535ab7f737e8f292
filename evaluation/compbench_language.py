"""What T2I-CompBench's scorers look for in an image, read from a prompt's analysis by spaCy.

Source: T2I-CompBench 1b709499, ``UniDet_eval/2D_spatial_eval.py``, ``UniDet_eval/numeracy_eval.py``
and ``CLIPScore_eval/CLIP_similarity.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from evaluation.chunks import Analysis
from policy.errors import UserError
from policy.text_files import read_text
from policy.types import JsonDict

_ATTRIBUTES = ("color", "shape", "texture")
CATEGORIES = (*_ATTRIBUTES, "non_spatial", "spatial", "numeracy", "complex")
# The first of these that a prompt contains is its relation.
_LOCALITIES = (
    "on side of", "next to", "near", "on the left of", "on the right of", "on the bottom of",
    "on the top of", "on top of",
)  # fmt: skip
_PREPOSITIONS = (
    "on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near",
)  # fmt: skip
_ONE = ("a", "an", "one")
_NUMBERS = dict.fromkeys(_ONE, 1) | {
    word: number
    for number, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight"), start=2
    )
}


def item(
    text: str, analysis: Analysis, category: str, singulars: Mapping[str, str] | None = None
) -> JsonDict:
    """``Prompt.evaluation`` of a prompt of a category: what the category's scorers read.

    Numeracy needs ``singulars``, from ``load_singulars``. Raises ``ValueError`` for an unknown
    category, and for a numeracy prompt that names no known object.
    """
    if category in _ATTRIBUTES:
        return {"chunks": list(analysis.chunks)}
    if category == "non_spatial":
        return {}
    if category == "spatial":
        return {"objects": spatial_objects(analysis), "locality": locality(text)}
    if category == "numeracy":
        if not (asked := counts(analysis, singulars or {})):
            raise ValueError(f"the numeracy prompt {text!r} names no known object")
        return {"counts": [list(pair) for pair in asked]}
    if category == "complex":
        return {
            "chunks": list(analysis.chunks),
            "clip_text": without_adjectives(analysis),
            "objects": complex_objects(analysis),
            "locality": locality(text),
        }
    raise ValueError(f"{category!r} is not one of {', '.join(CATEGORIES)}")


def load_singulars(path: Path) -> dict[str, str]:
    """The singular of each plural, from T2I-CompBench's ``new_objects.txt`` ("bird - birds")."""
    singulars = {}
    for number, line in enumerate(read_text(path, f"object file {path}").splitlines(), start=1):
        singular, dash, plural = line.lower().partition(" - ")
        if not dash:
            raise UserError(f"{path}:{number}: expected 'singular - plural'")
        singulars[plural.strip()] = singular.strip()
    return singulars


def locality(text: str) -> str | None:
    """The relation that a prompt names, or None."""
    return next((words for words in _LOCALITIES if words in text), None)


def without_adjectives(analysis: Analysis) -> str:
    """The tokens that are no adjectives, with one blank between any two."""
    return " ".join(word for word, part in analysis.tokens if part != "ADJ")


def spatial_objects(analysis: Analysis) -> list[str]:
    """The first and the last noun, which may be the same; empty without a noun."""
    nouns = [word for word, part in analysis.tokens if part == "NOUN"]
    return [nouns[0], nouns[-1]] if nouns else []


def complex_objects(analysis: Analysis) -> list[str]:
    """The nouns before and after the preposition, or none unless there are exactly two in all."""
    objects: list[str] = []
    for start in range(len(analysis.tokens)):
        words = [word for word, _ in analysis.tokens[start : start + 3]]
        lengths = [n for n in (3, 2, 1) if " ".join(words[:n]) in _PREPOSITIONS]
        if lengths:
            objects += _noun_before(analysis, start) + _noun_after(analysis, start + lengths[0])
    return objects if len(objects) == 2 else []


def counts(analysis: Analysis, singulars: Mapping[str, str]) -> list[tuple[str, int]]:
    """The name and the number of each object, such as ``[("bird", 2)]`` of "two birds".

    A number stands right before a name of one or two words. A number of "a", "an" or "one", and a
    name that the file has in the singular alone, count as they are.
    """
    words = [word for word, _ in analysis.tokens]
    known = singulars.keys() | set(singulars.values())
    found = []
    for place, word in enumerate(words):
        if word not in _NUMBERS:
            continue
        following = (" ".join(words[place + 1 : place + 3]), " ".join(words[place + 1 : place + 2]))
        name = next((name for name in following if name in known), None)
        if name is not None:
            singular = name if word in _ONE else singulars.get(name, name)
            found.append((singular, _NUMBERS[word]))
    return found


def _noun_before(analysis: Analysis, start: int) -> list[str]:
    before = reversed(analysis.tokens[:start])
    return [word for word, part in before if part in ("NOUN", "PROPN")][:1]


def _noun_after(analysis: Analysis, start: int) -> list[str]:
    """The next noun. Without one, the last word of the next name that does not end the prompt."""
    after = analysis.tokens[start:]
    nouns = [word for word, part in after if part == "NOUN"]
    names = [
        word
        for (word, part), (_, following) in pairwise(after)
        if part == "PROPN" and following != "PROPN"
    ]
    return nouns[:1] or names[:1]
