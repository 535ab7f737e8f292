"""Reads the answers of a judge of WISE. An answer that the rules do not fit is an error.

The rules are those of the authors' programs (``WISE_legacy/gpt_eval.py`` and ``vllm_eval.py`` at
eb511744), but nothing is guessed. Their programs take the 1 of "10" and the last of two scores, and
skip what they cannot read.
"""

from __future__ import annotations

import re

_NAMES = ("consistency", "realism", "aesthetic quality")
_NAMED = re.compile(
    r"(?<![A-Za-z])\*{0,2}(Consistency|Realism|Aesthetic Quality)\*{0,2}\s*:?\*{0,2}\s*(\d\S*)",
    re.IGNORECASE,
)
_SCORE = re.compile(r"(?<![A-Za-z])\*{0,2}Score\*{0,2}\s*:?\*{0,2}\s*(\d\S*)", re.IGNORECASE)
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_LEGACY_WEIGHTS = {"consistency": 0.7, "realism": 0.2, "aesthetic quality": 0.1}


def legacy_scores(answer: str) -> dict[str, float]:
    """Consistency, realism and aesthetic quality, each 0, 1 or 2.

    The answer has a line for each, or three lines of one digit in this order. Raises ``ValueError``
    for any other answer: a name that is missing or there twice, or a score that is not 0, 1 or 2.
    """
    text = _without_thinking(answer)
    found = [(name.lower(), value) for name, value in _NAMED.findall(text)]
    if not found:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) != len(_NAMES):
            raise ValueError(f"no scores in the answer {text[:80]!r}")
        found = list(zip(_NAMES, lines, strict=True))
    names = [name for name, _ in found]
    for name in _NAMES:
        if names.count(name) != 1:
            raise ValueError(f"{names.count(name)} scores of {name} in the answer {text[:80]!r}")
    return {name: float(_digit(value, "012", text)) for name, value in found}


def legacy_wiscore(scores: dict[str, float]) -> float:
    """(0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2, in [0, 1]."""
    return sum(_LEGACY_WEIGHTS[name] * value for name, value in scores.items()) / 2


def verified_score(answer: str) -> float:
    """0 or 1. Raises ``ValueError`` unless the answer has one score, named or alone in its line."""
    text = _without_thinking(answer)
    found = _SCORE.findall(text)
    if not found:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    if len(found) != 1:
        raise ValueError(f"{len(found)} scores in the answer {text[:80]!r}")
    return float(_digit(found[0], "01", text))


def _digit(value: str, allowed: str, text: str) -> str:
    digit = value.strip("*.,;")
    if len(digit) != 1 or digit not in allowed:
        raise ValueError(f"score {value[:20]!r} in the answer {text[:80]!r}")
    return digit


def _without_thinking(answer: str) -> str:
    """The answer without the part in which the model thinks, which may name scores too."""
    text = _THINKING.sub("", answer)
    if "<think>" in text:
        raise ValueError("the answer ends while the model is thinking")
    return text.rpartition("</think>")[2].strip()
