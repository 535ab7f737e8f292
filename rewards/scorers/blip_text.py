"""Prepares questions and captions as the BLIP and BLIP-2 programs do.

Sources: T2I-CompBench 1b709499, ``BLIPvqa_eval/BLIP_vqa.py`` and ``data/utils.py``; LAVIS 506965b9,
``processors/blip_processors.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = re.compile(r'[.!"()*#:;~]')
_BLANKS = re.compile(r"\s{2,}")
_MOST_WORDS = 50
_MOST_QUESTIONS = 8
# T2I-CompBench does not ask about these noun chunks. It compares the whole chunk, before the chunk
# becomes lower case.
_NOT_ASKED = ("top", "the side", "the left", "the right")


def questions(chunks: Sequence[str]) -> list[str]:
    """The questions of T2I-CompBench about a prompt's noun chunks, at most eight, in order.

    ``["A Red Book", "the left"]`` gives ``["a red book?"]``. Signs are deleted here and not
    replaced by a space, so that "3.5 inch" becomes "35 inch".
    """
    asked = [chunk for chunk in chunks if chunk not in _NOT_ASKED][:_MOST_QUESTIONS]
    return [_first_words(_SIGNS.sub("", f"{chunk}?".lower()).rstrip(" ")) for chunk in asked]


def caption(text: str) -> str:
    """The caption that LAVIS gives to BLIP-2. Here a sign is replaced by a space."""
    spaced = _BLANKS.sub(" ", _SIGNS.sub(" ", text.lower()))
    return _first_words(spaced.rstrip("\n").strip(" "))


def _first_words(text: str) -> str:
    return " ".join(text.split(" ")[:_MOST_WORDS])
