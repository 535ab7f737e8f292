"""Suites without questions about objects: how different and how good the images are.

``diversity`` draws 20 images of each prompt. A prompt's value is the Vendi score of its images, and
the column is the mean over prompts. The score depends on the features and on the number of images,
so both are in the result; the paper states neither, and its figures cannot be reproduced.

``quality`` has three measures: the probability of a match by BLIP-2, the LAION aesthetic score and
PickScore. They have no common scale, so each is a column of its own, and the table of several
results adds their mean z-score. It has the Vendi score of the same images too, so that the table
can compare diversity at equal quality (``evaluation.matched``).

Both take the first 60 complex prompts of T2I-CompBench.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.diversity import cosines, vendi
from evaluation.suites.suite import Column, Item, Scores, Suite
from policy.errors import UserError
from policy.moments import mean
from policy.text_files import read_text
from policy.types import JsonDict, Prompt

FILE, _PROMPTS = "t2i_compbench/complex_val.txt", 60
QUALITY = ("blip2_itm", "laion", "pickscore")


def load_prompts(folder: Path, scorers: tuple[str, ...]) -> list[Item]:
    """The first prompts of the list."""
    file = folder / FILE
    lines = read_text(file, f"{file} (eg-grpo data fetch downloads it)").split("\n")
    texts = [line.strip() for line in lines if line.strip()][:_PROMPTS]
    if not texts:
        raise UserError(f"{file} holds no prompt")
    return [
        Item(Prompt(f"complex_val:{number}", text, "complex"), "complex", scorers)
        for number, text in enumerate(texts, start=1)
    ]


def measure_diversity(item: Item, scores: Scores) -> dict[str, float]:
    """The Vendi score of the prompt's images, from the features in the scores' details."""
    return {"vendi": vendi(_features(scores))}


def _features(scores: Scores) -> NDArray[np.float64]:
    """The features of the prompt's images, N D."""
    rows = (sorted((score.detail or {}).items(), key=_number) for score in scores["features"])
    return np.array([[value for _, value in row] for row in rows])


def _number(feature: tuple[str, float]) -> int:
    return int(feature[0].removeprefix("f"))


def measure_quality(item: Item, scores: Scores) -> dict[str, float]:
    """The mean of each measure over the prompt's images, and their Vendi score."""
    means = {name: mean([score.value for score in scores[name]]) for name in QUALITY}
    return means | measure_diversity(item, scores)


def quality_per_image(item: Item, scores: Scores) -> JsonDict:
    """What ``evaluation.matched`` compares: the measures of each image, and all cosines.

    Cosines have nine digits, as the features are float32.
    """
    rows = zip(*([score.value for score in scores[name]] for name in QUALITY), strict=True)
    return {
        "quality": [list(row) for row in rows],
        "cosines": cosines(_features(scores)).round(9).tolist(),
    }


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name, {name: 1.0}, scale=1.0) for name in names)


DIVERSITY = Suite(
    name="diversity",
    about="how different the images of one prompt are, by the Vendi score",
    images_per_prompt=20,
    load=lambda folder: load_prompts(folder, ("features",)),
    columns=_columns(("vendi",)),
    measure=measure_diversity,
    lists={"prompts": "the first 60 of complex_val.txt of 1b709499"},
)
QUALITY_SUITE = Suite(
    name="quality",
    about="how good images look, by BLIP-2, LAION aesthetics and PickScore",
    images_per_prompt=20,
    load=lambda folder: load_prompts(folder, (*QUALITY, "features")),
    columns=_columns((*QUALITY, "vendi")),
    measure=measure_quality,
    per_image=quality_per_image,
    lists={"prompts": "the first 60 of complex_val.txt of 1b709499"},
)
