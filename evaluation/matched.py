"""Diversity of two models at equal quality, as the paper's Table 4 compares it.

A model that draws better images may draw fewer different ones, or the other way round, so that two
Vendi scores alone say little. The paper keeps the samples "where both models achieved similar
quality scores". It tells neither how near is similar nor how samples are selected. Here the images
of a prompt are paired, one of each model, if their qualities differ by at most a tolerance. Both
models so keep equally many images of each prompt, on which the Vendi score depends, and images of
nearly the same quality.

The quality of an image is the mean of its z-scores in several measures. Mean and standard deviation
(n - 1) of a measure are those of all images of both models together, which treats both alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.comparison import Interval, paired_interval
from evaluation.diversity import vendi_of_cosines
from policy.moments import mean
from policy.types import JsonDict

# In standard deviations of quality. Several, because nobody has said which is right.
TOLERANCES = (0.1, 0.2, 0.5)
_FEWEST = 2  # one image has a Vendi score of 1, whatever it shows
_VENDI: JsonDict = {"weights": {"vendi": 1.0}, "scale": 1.0}

Qualities = Mapping[str, Sequence[float]]  # of each image, by prompt


@dataclass(frozen=True)
class Matched:
    """Two models on the images that are left. Pairs of numbers are of the first and the other."""

    tolerance: float
    prompts: int  # with at least two pairs
    pairs: int
    quality: tuple[float, float]  # the means over prompts of the means over their images
    vendi: tuple[float, float]  # the means over prompts
    difference: Interval  # of the Vendi score, other minus first


def matched_diversity(first: JsonDict, other: JsonDict, tolerance: float) -> Matched | None:
    """Compare two results whose ``per_image`` has the ``quality`` and ``cosines`` of each prompt.

    ``quality`` holds a row of measures for each image, and ``cosines`` the N x N matrix of its N
    images. None if no prompt has two pairs.
    """
    qualities = image_qualities(first, other)
    values: list[dict[str, float]] = [{}, {}]
    means: list[list[float]] = [[], []]
    count = 0
    for prompt in first["per_image"]:
        found = pairs(qualities[0][prompt], qualities[1][prompt], tolerance)
        if len(found) < _FEWEST:
            continue
        count += len(found)
        for side, result in enumerate((first, other)):
            chosen = [pair[side] for pair in found]
            cosine_NN = np.array(result["per_image"][prompt]["cosines"])
            values[side][prompt] = vendi_of_cosines(cosine_NN[np.ix_(chosen, chosen)])
            means[side].append(mean([qualities[side][prompt][index] for index in chosen]))
    if not values[0]:
        return None
    before, after = ({"values": {"vendi": of_model}} for of_model in values)
    difference = paired_interval(before, after, _VENDI)
    assert difference is not None  # both have a value
    return Matched(
        tolerance,
        len(values[0]),
        count,
        (mean(means[0]), mean(means[1])),
        (mean(list(values[0].values())), mean(list(values[1].values()))),
        difference,
    )


def image_qualities(first: JsonDict, other: JsonDict) -> tuple[Qualities, Qualities]:
    """The quality of each image of both results; both have the same prompts.

    Raises ``ValueError`` when a measure does not vary over the images, and for a result of an older
    version, which has no values of single images.
    """
    if not ("per_image" in first and "per_image" in other):
        raise ValueError(
            "a result has no values of single images; the same command that made it writes it anew"
        )
    both = (first["per_image"], other["per_image"])
    rows = np.array([row for of in both for prompt in of.values() for row in prompt["quality"]])
    deviation = rows.std(axis=0, ddof=1)
    if not (deviation > 0).all():
        raise ValueError("a measure of quality does not vary over the images")
    centre = rows.mean(axis=0)
    found = [
        {
            prompt: ((np.array(of[prompt]["quality"]) - centre) / deviation).mean(axis=1).tolist()
            for prompt in of
        }
        for of in both
    ]
    return found[0], found[1]


def pairs(
    first: Sequence[float], other: Sequence[float], tolerance: float
) -> list[tuple[int, int]]:
    """As many pairs as there can be of two numbers that differ by at most ``tolerance``.

    Each number is in one pair at most. Returns indices. Both lists are walked upwards: if the two
    lowest numbers are too far apart, the lower one has no partner at all.
    """
    left = sorted(range(len(first)), key=lambda index: first[index])
    right = sorted(range(len(other)), key=lambda index: other[index])
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        gap = first[left[i]] - other[right[j]]
        if abs(gap) <= tolerance:
            found.append((left[i], right[j]))
        i += gap <= tolerance
        j += gap >= -tolerance
    return found
