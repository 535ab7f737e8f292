"""What T2I-CompBench's programs read from a prompt that spaCy has analysed.

The analyses are written down, so that no test needs spaCy. The expected values are those of the
original programs on such tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.chunks import Analysis
from evaluation.compbench_language import (
    complex_objects,
    counts,
    item,
    load_singulars,
    locality,
    spatial_objects,
    without_adjectives,
)
from policy.errors import UserError

SINGULARS = {"birds": "bird", "fish": "fish", "teddy bears": "teddy bear"}


def analysis(tagged: str, *chunks: str) -> Analysis:
    """``the/DET cat/NOUN`` as tokens."""
    tokens = [tuple(token.rsplit("/", 1)) for token in tagged.split()]
    return Analysis(chunks, tuple((word, part) for word, part in tokens))


PLANT = analysis(
    "The/DET green/ADJ plant/NOUN was/AUX on/ADP top/NOUN of/ADP the/DET white/ADJ"
    " nightstand/NOUN ./PUNCT",
    "The green plant",
    "top",
    "the white nightstand",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat on the left of a dog", "on the left of"),
        ("a cat next to a dog near a tree", "next to"),
        ("a cat on top of a dog", "on top of"),
        ("a cat on the top of a dog", "on the top of"),
        ("a cat and a dog", None),
        ("a cat beside a nearby dog", "near"),  # as the original, which looks for letters
    ],
)
def test_the_first_known_words_are_the_relation(text: str, expected: str | None) -> None:
    """In the order of the benchmark's list, not of the prompt."""
    assert locality(text) == expected


def test_adjectives_are_left_out_and_blanks_are_put_between_tokens() -> None:
    """So a blank stands before the full stop, as in the original."""
    assert without_adjectives(PLANT) == "The plant was on top of the nightstand ."


def test_spatial_objects_are_the_first_and_the_last_noun() -> None:
    """Names of the part PROPN are not nouns here."""
    assert spatial_objects(PLANT) == ["plant", "nightstand"]
    assert spatial_objects(analysis("a/DET cat/NOUN near/ADP Rome/PROPN")) == ["cat", "cat"]
    assert spatial_objects(analysis("look/VERB")) == []


@pytest.mark.parametrize(
    ("tagged", "expected"),
    [
        ("a/DET cat/NOUN next/ADV to/ADP a/DET dog/NOUN", ["cat", "dog"]),
        # Here spaCy calls "top" a noun, but it belongs to the preposition.
        ("plant/NOUN on/ADP top/NOUN of/ADP the/DET table/NOUN", ["plant", "table"]),
        ("Tom/PROPN near/ADP a/DET dog/NOUN", ["Tom", "dog"]),
        ("cat/NOUN near/ADP Big/PROPN Ben/PROPN ./PUNCT", ["cat", "Ben"]),
        ("cat/NOUN near/ADP Ben/PROPN", []),  # a name that ends the prompt is not found
        ("cat/NOUN and/CCONJ dog/NOUN", []),
        ("a/NOUN near/ADP b/NOUN near/ADP c/NOUN", []),  # four objects
    ],
)
def test_complex_objects_stand_around_the_preposition(tagged: str, expected: list[str]) -> None:
    """Exactly two, or none."""
    assert complex_objects(analysis(tagged)) == expected


@pytest.mark.parametrize(
    ("tagged", "expected"),
    [
        ("two/NUM birds/NOUN and/CCONJ a/DET bird/NOUN", [("bird", 2), ("bird", 1)]),
        ("eight/NUM teddy/NOUN bears/NOUN", [("teddy bear", 8)]),
        ("one/NUM teddy/NOUN bear/NOUN", [("teddy bear", 1)]),
        ("three/NUM fish/NOUN", [("fish", 3)]),
        ("two/NUM bird/NOUN", [("bird", 2)]),
        ("two/NUM red/ADJ birds/NOUN", []),
        ("nine/NUM birds/NOUN", []),
        ("birds/NOUN two/NUM", []),
    ],
)
def test_a_number_stands_right_before_its_object(
    tagged: str, expected: list[tuple[str, int]]
) -> None:
    """Numbers to eight, names of one or two words."""
    assert counts(analysis(tagged), SINGULARS) == expected


def test_the_item_of_a_category_holds_what_its_scorers_read() -> None:
    """Complex prompts have three scorers, and attributes one."""
    text = "The green plant was on top of the white nightstand."
    assert item(text, PLANT, "color") == {
        "chunks": ["The green plant", "top", "the white nightstand"]
    }
    assert item(text, PLANT, "non_spatial") == {}
    assert item(text, PLANT, "spatial") == {
        "objects": ["plant", "nightstand"], "locality": "on top of",
    }  # fmt: skip
    assert item(text, PLANT, "complex") == {
        "chunks": ["The green plant", "top", "the white nightstand"],
        "clip_text": "The plant was on top of the nightstand .",
        "objects": ["plant", "nightstand"],
        "locality": "on top of",
    }
    owls = analysis("two/NUM birds/NOUN")
    assert item("two birds", owls, "numeracy", SINGULARS) == {"counts": [["bird", 2]]}


def test_a_numeracy_prompt_without_an_object_is_refused() -> None:
    """The original would divide by zero."""
    with pytest.raises(ValueError, match="'birds' names no known object"):
        item("birds", analysis("birds/NOUN"), "numeracy", SINGULARS)
    with pytest.raises(ValueError, match="'colour' is not one of color, shape"):
        item("birds", PLANT, "colour")


def test_the_public_object_file_gives_singulars(tmp_path: Path) -> None:
    """One pair a line; another line is named."""
    file = tmp_path / "new_objects.txt"
    file.write_text("bird - birds\nTeddy bear - Teddy bears\n")
    assert load_singulars(file) == {"birds": "bird", "teddy bears": "teddy bear"}
    file.write_text("bird - birds\nfish\n")
    with pytest.raises(UserError, match=r"new_objects.txt:2: expected 'singular - plural'"):
        load_singulars(file)
