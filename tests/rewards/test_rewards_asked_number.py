"""When a prompt asks for exactly one of a thing, so that a second one in the image is a mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.prompts import load_prompts
from rewards.detection.asked_number import asks_for_one, is_plural

BROWN_SHOES = "The brown shoes were next to the black boots."


@pytest.mark.parametrize(
    ("noun", "text", "one"),
    [
        ("rubber glove", "a rubber glove and a wooden box", True),
        ("rubber glove", "rubber gloves on a table", False),  # the prompt has the plural
        ("child", "children at play", False),  # not there as a word of its own
        ("umbrella", "The red umbrella was on top of the black umbrella stand.", False),  # twice
        ("TV", "a rectangular tv", True),
        ("car", "a red scar", False),
        # the prompt file itself gives the plural
        ("shoes", BROWN_SHOES, False),
        ("boots", BROWN_SHOES, False),
        ("people", "A dog is sitting on a park bench and watching people pass by.", False),
        ("feet", "the conical feet", False),
        ("teeth", "their patient's teeth", False),
        ("children", "children at play", False),
        ("mice", "the mice in the kitchen", False),
        ("pom-poms", "the red pom-poms", False),
        ("bunch of grapes", "the bunch of grapes", False),
        # the same word in singular and plural, or never singular: the article decides
        ("sheep", "a photo of a sheep", True),
        ("sheep", "the sheep in the meadow", False),
        ("scissors", "a photo of a scissors right of a train", True),
        ("scissors", "The sharp red scissors lay next to the blunt grey ruler.", False),
        ("binoculars", "A person is looking at a bird through binoculars.", False),
        ("soap", "a cubic soap", True),
        ("grass", "the green grass", False),
        # many things in one word
        ("jewelry", "a metallic jewelry and a wooden desk", False),
        ("furniture", "an antique furniture", False),
        ("traffic", "The police officer is directing traffic at the intersection.", False),
        ("crowd", "a song for a crowd", False),
        # singular, though it ends in s
        *((noun, f"the {noun}", True) for noun in
          ("bus", "glass", "dress", "cactus", "canvas", "compass", "hourglass", "thermos")),
        # a quantity
        ("sheep", "three sheep in a field", False),
        ("sheep", "3 sheep", False),
        ("dog", "25 dog", False),
        ("dog", "twenty-five big dog", False),
        ("dog", "a dozen dog", False),
        ("sheep", "a flock of sheep", False),
        ("sheep", "flocks of white sheep", False),
        ("glove", "a pair of blue glove", False),
        ("dog", "two of the dog", False),
        ("plant", "making sure each plant was healthy", False),
        ("sheep", "1 sheep", True),
        ("zebra", "a herd of one zebra", True),
        # a quantity of something else
        ("dog", "two cats, a dog", True),
        ("dog", "two cats and a dog", True),
        ("dog", "two cats and dog", True),
        ("dog", "two cats chase dog", True),
        ("park", "A child is swinging on a swing set in the park.", True),
        ("bowl", "some soup in a bowl", True),
        ("stool", "three-legged stool", True),
        ("house", "a two story house", True),
        ("side", "the side of a car", True),
        ("car", "the side of the car", True),
        ("dog", "one of the dog", True),
    ],
)  # fmt: skip
def test_when_a_prompt_asks_for_exactly_one(noun: str, text: str, one: bool) -> None:
    """Only then does a second one cost."""
    assert asks_for_one(noun, text) is one


SINGULAR = (
    "alias apple asparagus bass boss box bus cactus canvas child circus compass crocus dress fungus"
    " gas glass grass hippopotamus horse house iris kiss lens lotus man mattress moss mouse oasis"
    " octopus penguin person princess rhinoceros tennis thermos tomato tooth tutu vase virus walrus"
)
PLURAL = (
    "aircraft apples boxes buses cacti cattle children clothes deer dice dishes feet fish geese"
    " glasses goggles horses houses kangaroos knives leaves men mice octopi oxen pandas people"
    " photos police scissors sheep shoes skis sofas taxis teeth tomatoes trousers tutus women"
)


def test_which_words_are_plurals() -> None:
    """Irregular ones, and singular words with an s at their end, which inflect alone takes for
    plurals."""
    assert [word for word in SINGULAR.split() if is_plural(word)] == []
    assert [word for word in PLURAL.split() if not is_plural(word)] == []


WORDS = st.sampled_from("a the two 3 3.5 of dozen pair red dogs car , - 's sheep \u00b2 é".split())
NAMES = st.text(min_size=1).map(str.strip).filter(bool) | st.lists(WORDS, min_size=1).map(" ".join)


@settings(deadline=None)  # the first question takes seconds
@given(NAMES, st.lists(WORDS | st.text()).map(" ".join))
def test_no_words_are_too_odd(noun: str, text: str) -> None:
    """An answer for anything that a prompt file may hold, and never yes for what is not named."""
    assert not (asks_for_one(noun, text) and noun.lower() not in text.lower())


@pytest.mark.skipif(
    "EG_GRPO_TRAINING_FILE" not in os.environ,
    reason="EG_GRPO_TRAINING_FILE does not name the public training file (eg-grpo data fetch)",
)
def test_in_the_public_file() -> None:
    """How many of the nouns that the score asks about ask for one: counted once, and looked
    through. 55 rows name a plural without an article."""
    names = ones = 0
    for prompt in load_prompts(Path(os.environ["EG_GRPO_TRAINING_FILE"])):
        if prompt.task_type == "numeracy":
            continue
        spatial = prompt.spatial_info if prompt.task_type == "spatial" else None
        asked = (spatial.obj1, spatial.obj2) if spatial else prompt.nouns
        for noun in dict.fromkeys(asked):
            names += 1
            ones += asks_for_one(noun, prompt.text)
    assert (names, ones) == (13088, 12034)
