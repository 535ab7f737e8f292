"""Diversity at equal quality: pairs of images, and what is computed of them, in literal numbers."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.markdown_table import table
from evaluation.matched import image_qualities, matched_diversity, pairs
from tests.written_results import result

ALL_DIFFER = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
ALL_ALIKE = [[1.0] * 3] * 3


def images(qualities: list[float], cosines: list[list[float]]) -> dict[str, Any]:
    return {"quality": [[quality] for quality in qualities], "cosines": cosines}


# Two prompts. The third image of each is better than any of the other model, which draws one image
# again and again.
VARIED = {"per_image": {prompt: images([0, 1, 9], ALL_DIFFER) for prompt in "ab"}}
ALIKE = {"per_image": {prompt: images([2, 0, 1], ALL_ALIKE) for prompt in "ab"}}


def test_pairs_are_as_many_as_there_can_be() -> None:
    """1 is as good a partner of 1 as 0 is, and then 2 has one too; nothing is paired twice."""
    assert pairs([0.0, 1.0], [1.0, 2.0], 1.0) == [(0, 0), (1, 1)]
    assert pairs([5.0, 0.0, 2.0], [1.75, 0.25, 9.0], 0.25) == [(1, 1), (2, 0)]
    assert pairs([0.0, 0.0], [0.0], 0.1) == [(0, 0)]
    assert pairs([0.0], [1.0], 0.5) == []


def test_the_order_of_the_models_does_not_matter() -> None:
    """Turned round, the same images are paired."""
    first, other = [0.3, 0.1, 0.8, 0.45], [0.5, 0.2, 0.9, 1.4]
    turned = [(i, j) for j, i in pairs(other, first, 0.15)]
    assert pairs(first, other, 0.15) == turned == [(1, 1), (3, 0), (2, 2)]


def test_quality_is_standardised_over_the_images_of_both() -> None:
    """0 and 2 of one, 4 and 6 of the other: mean 3, deviation 2.582; a second measure is ten times
    as large, and counts the same."""
    first, other = (
        {"per_image": {"a": {"quality": [[low, 10 * low], [high, 10 * high]], "cosines": []}}}
        for low, high in ((0, 2), (4, 6))
    )
    qualities = image_qualities(first, other)
    assert qualities[0]["a"] == pytest.approx([-1.161895, -0.387298])
    assert qualities[1]["a"] == pytest.approx([0.387298, 1.161895])
    same = {"per_image": {"a": images([1, 1, 1], ALL_ALIKE)}}
    with pytest.raises(ValueError, match="a measure of quality does not vary"):
        image_qualities(same, same)


def test_the_vendi_score_is_of_the_paired_images() -> None:
    """0 and 1 have a partner in both prompts, 9 and 2 have none. Two images that differ have a
    Vendi score of 2, and not the 3 of all; equal ones have 1. The mean of twice 0, 1, 9, 2,
    0, 1 is 13 / 6 and their deviation 3.2706, so that 0.5 is -0.5096."""
    found = matched_diversity(VARIED, ALIKE, 0.1)
    assert found is not None
    assert (found.prompts, found.pairs) == (2, 4)
    assert found.quality == pytest.approx((-0.509587, -0.509587), abs=1e-6)
    assert found.vendi == pytest.approx((2.0, 1.0))
    difference = found.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((-1, -1, -1))


def test_a_prompt_with_one_pair_is_left_out() -> None:
    """One image has a Vendi score of 1, whatever it shows. Without any prompt there is nothing."""
    one = {"per_image": {"a": images([0, 1, 9], ALL_DIFFER), "b": images([0, 8, 9], ALL_DIFFER)}}
    found = matched_diversity(one, ALIKE, 0.1)
    assert found is not None
    assert (found.prompts, found.pairs) == (1, 2)
    far = {"per_image": {prompt: images([7, 8, 9], ALL_DIFFER) for prompt in "ab"}}
    assert matched_diversity(far, ALIKE, 0.1) is None


def test_the_table_of_quality_compares_diversity() -> None:
    """A row for each tolerance, against the first result; the paper's figures are in a note."""
    measures = ("blip2_itm", "laion", "pickscore", "vendi")
    values = {name: {"a": 1.0, "b": 2.0} for name in measures}
    varied, alike = (
        result(values, suite="quality", images_per_prompt=3, **of) for of in (VARIED, ALIKE)
    )
    text = table(["varied", "alike"], [varied, alike])
    assert "| tolerance | prompts | pairs | quality, varied | quality, alike |" in text
    row = "-0.510 | -0.510 | 2.000 | 1.000 | -1.000 [-1.000, -1.000] |"
    assert f"| 0.1 | 2 | 4 | {row}" in text
    assert f"| 0.2 | 2 | 4 | {row}" in text
    assert "Table 4 of the paper has a Vendi score of 2.593 for EG-GRPO" in text


def test_a_result_of_an_older_version_has_no_comparison_at_equal_quality() -> None:
    """Its means are compared as before, and the table says what is missing."""
    values = {name: {"a": 1.0, "b": 2.0} for name in ("blip2_itm", "laion", "pickscore", "vendi")}
    new, old = (result(values, suite="quality", **of) for of in (VARIED, {}))
    text = table(["new", "old"], [new, old])
    assert "| old | +0.00 [+0.00, +0.00] |" in text
    assert (
        "Diversity cannot be compared at equal quality: a result has no values of single images;"
        " the same command that made it writes it anew." in text
    )
