"""Figures that were copied by hand into a page stand in a page that a command wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = [
    "ablation.md", "benchmarks.md", "experiments/drawing.md", "experiments/entropy.md",
    "experiments/gradient.md", "experiments/results.md",
]  # fmt: skip
# A mean with the half-width of its interval. The sign is left out: a page may say "worse by".
FIGURE = re.compile(r"(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)")


def rounded(number: str, like: str) -> str:
    return f"{float(number):.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("page", ["evidence.md", "unguided.md"])
def test_means_with_their_intervals_are_those_of_the_commands(page: str) -> None:
    """A study that is run again changes its page, and this test then names what is left behind.
    Fewer digits are no difference."""
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in WRITTEN)
    written = set(FIGURE.findall(text))
    copied = FIGURE.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(copied) > 20
    unknown = [
        f"{mean} ± {half}"
        for mean, half in copied
        if not any((rounded(m, mean), rounded(h, half)) == (mean, half) for m, h in written)
    ]
    assert unknown == []
