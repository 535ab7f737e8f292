"""The embedded world as a suite: its two prompt files and its three rewards, without a download.

``seen`` holds pairs of colour and shape that pretraining and training have seen. ``held_out`` holds
pairs that neither has seen. ``total`` is the reward that the embedded world is trained on.
"""

from __future__ import annotations

from pathlib import Path

from evaluation.suites.suite import Column, Item, Scores, Suite
from policy.moments import mean
from policy.prompts import load_prompts
from shapes.rewards import WEIGHTS

_SETS = ("seen", "held_out")
_DATA = Path(__file__).parents[2] / "shapes" / "data"


def load(folder: Path) -> list[Item]:
    """The prompts of both files, which are part of the package; ``folder`` is not read."""
    return [
        Item(prompt, name, tuple(WEIGHTS))
        for name in _SETS
        for prompt in load_prompts(_DATA / f"{name}.jsonl")
    ]


def measure(item: Item, scores: Scores) -> dict[str, float]:
    """The prompt's mean of each reward and of their weighted sum."""
    means = {name: mean([score.value for score in scores[name]]) for name in WEIGHTS}
    total = sum(WEIGHTS[name] * value for name, value in means.items())
    return {
        f"{item.stratum}/total": total,
        **{f"{item.stratum}/{name}": value for name, value in means.items()},
    }


SHAPES = Suite(
    name="shapes",
    about="the embedded world, which needs no download",
    images_per_prompt=4,
    load=load,
    columns=tuple(
        Column(f"{name} {part}", {f"{name}/{part}": 1.0})
        for name in _SETS
        for part in ("total", *WEIGHTS)
    ),
    measure=measure,
)
