"""Decides whether a prompt asks for exactly one of a thing, from its words, without a parser.

In doubt the answer is no: a second object in the image then does not lower the score.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import inflect

_WORDS = re.compile(r"\w+(?:-\w+)*|[^\w\s]")

# Words that inflect gets wrong: it takes a final "s" for the ending of a plural.
_NO_PLURALS = frozenset(
    "alias atlas bias canvas christmas gas pancreas asbestos chaos cosmos rhinoceros thermos lens"
    " axis basis borealis clematis crisis ibis iris mantis oasis pelvis tennis trellis".split()
)
_PLURALS = frozenset(
    "cacti cattle emus fungi gnus menus octopi police tutus antennae bison chateaux formulae"
    " godchildren grandchildren hippopotami larvae media nebulae passersby plateaux schoolchildren"
    " shrimp squid stepchildren".split()
)

# Names of several things. "a" before such a word does not say how many there are.
_SEVERAL = frozenset(
    "assortment audience bunch choir collection couple crew crowd family fleet flock group herd"
    " orchestra pair swarm team"
    " baggage cabinetry clothing cutlery debris equipment foliage furniture graffiti hair jewellery"
    " jewelry laundry litter luggage machinery pottery silverware traffic underbrush".split()
)
# Names of several things where "of" follows. Without "of", a band or a row is one thing.
_SEVERAL_OF = _SEVERAL | frozenset(
    "army array band batch bouquet cluster colony heap host lot mass number pack pile plenty range"
    " row school selection series set stack string variety".split()
)
# Substances. With an article, as in "a soap", the prompt asks for one. Without
# an article, it asks for no number.
_SUBSTANCES = frozenset(
    "air bacon bread broccoli butter cereal cheese coffee concrete corn cotton dirt dough flour fog"
    " food fruit gold grass gravel hay honey ice ivy juice leather lemonade lettuce lightning"
    " makeup meat milk moss mud music oil paint pasta popcorn rain rice salsa salt sand sandpaper"
    " seaweed smoke snow soap soil sugar sunlight sunshine syrup tea toothpaste velvet water wheat"
    " wine wood wool yeast".split()
)

_ONE = frozenset("a an one 1 single another".split())
_NUMBERS = frozenset(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety".split()
)
_QUANTITIES = frozenset(
    "no zero more fewer several many some few multiple various numerous countless both all each"
    " every dozen dozens hundred hundreds thousand thousands million millions".split()
)
# Words that begin the noun's own phrase. Words before them belong to another noun.
_ENDS = frozenset(
    "and or nor but with without in on at by near to from into onto under over above below behind"
    " beside between beneath inside outside against along across around through toward towards"
    " upon off out for as while than that which who is are was were be has have had".split()
)


class _Asked(Enum):
    ONE = "one"
    SEVERAL = "several"
    UNSAID = "unsaid"


def asks_for_one(noun: str, text: str) -> bool:
    """Whether the prompt names the noun once, in the singular, and with no quantity but one.

    True for "dog" in "two cats, a dog" and for "scissors" in "a scissors". False for "rubber glove"
    in "a pair of rubber gloves", "boots" in "the black boots", "sheep" in "a flock of sheep", and
    for "furniture" in any prompt.
    """
    noun, text = noun.lower(), text.lower()
    found = list(re.finditer(rf"(?<!\w){re.escape(noun)}(?!\w)", text))
    if len(found) != 1:
        return False
    head = noun.partition(" of ")[0].split()[-1]  # the boat of "a red boat of wood"
    if head in _SEVERAL or (" of " in noun and head in _SEVERAL_OF):
        return False
    asked = _asked(_WORDS.findall(text[: found[0].start()]))
    if is_plural(head) or head in _SUBSTANCES:
        return asked is _Asked.ONE
    return asked is not _Asked.SEVERAL


@cache
def is_plural(word: str) -> bool:
    """Whether a noun in lower case is or may be a plural, such as "shoes", "feet" and "sheep"."""
    word = word.rpartition("-")[2]
    if word in _PLURALS:
        return True
    if word in _NO_PLURALS or word.endswith("us") or not word.isalpha():
        return False
    return bool(_singular(word))


def _asked(before: list[str]) -> _Asked:
    """What the words before a noun, in its own phrase, say about its number."""
    for place in reversed(range(len(before))):
        word, earlier = before[place], before[place - 1] if place else ","
        if word in _ONE:  # but "more than one" and "at least one"
            return _Asked.SEVERAL if earlier in ("than", "least") else _Asked.ONE
        if _is_number(word):  # "a two story house" is one
            return _Asked.ONE if earlier in ("a", "an") else _Asked.SEVERAL
        if word in _QUANTITIES:
            return _Asked.SEVERAL
        if word == "of":
            group = (earlier.isalpha() and _singular(earlier)) or earlier
            several = group in _SEVERAL_OF or earlier in _QUANTITIES or _is_number(earlier)
            return _Asked.SEVERAL if several else _Asked.UNSAID
        if word in _ENDS or not word[0].isalnum() or word.endswith("ing") or is_plural(word):
            return _Asked.UNSAID
    return _Asked.UNSAID


def _singular(word: str) -> str | Literal[False]:
    return _inflect().singular_noun(word)


@cache
def _inflect() -> inflect.engine:
    """Imported at the first question, because the import takes 3 s: inflect compiles its own
    methods again to check the types of their arguments."""
    import inflect

    return inflect.engine()


def _is_number(word: str) -> bool:
    """Whether a word is a number other than one, such as "3", "three" and "twenty-five"."""
    parts = set(word.split("-"))
    in_letters = bool(parts & _NUMBERS) and parts <= _NUMBERS | {"one"}
    return in_letters or (word.isdecimal() and word.lstrip("0") != "1")
