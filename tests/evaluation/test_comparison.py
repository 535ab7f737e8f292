"""Intervals over prompts, and the table of several results."""

from __future__ import annotations

import math

import pytest

from evaluation.comparison import (
    Interval,
    column_interval,
    differences_of_protocol,
    other_libraries,
    other_servers,
    paired_interval,
    standardised,
)
from evaluation.markdown_table import table
from policy.errors import UserError
from tests.written_results import COLUMN, result

BEFORE = result({"color": {"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.8}})
AFTER = result({"color": {"a": 0.2, "b": 1.0, "c": 0.3, "d": 0.9}}, model="trained")


def test_pairing_removes_what_prompts_have_in_common() -> None:
    """Each prompt gains 0.1: the paired interval is one point, the intervals of both are wide."""
    paired = paired_interval(BEFORE, AFTER, COLUMN)
    alone = column_interval(BEFORE, BEFORE["columns"][0])
    assert paired is not None
    assert alone is not None
    assert (paired.value, paired.low, paired.high) == pytest.approx((10.0, 10.0, 10.0))
    assert alone.value == pytest.approx(50.0)
    assert alone.low < 30 < 70 < alone.high


def test_the_interval_of_many_prompts_is_that_of_the_normal_distribution() -> None:
    """400 prompts of 0 and 1, half of each: mean 50, standard error 2.5, so 45.1 to 54.9."""
    values = {"color": {str(prompt): float(prompt % 2) for prompt in range(400)}}
    found = column_interval(result(values), result(values)["columns"][0])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((45.1, 54.9), abs=0.3)


def test_strata_are_drawn_independently() -> None:
    """The variance of a mean of two equal strata is half of one's, and not the same."""
    of_prompts = {str(prompt): float(prompt % 2) for prompt in range(400)}
    values = {"time": of_prompts, "space": of_prompts}
    both = {**COLUMN, "weights": {"time": 0.5, "space": 0.5}, "value": 50.0}
    found = column_interval(result(values), both)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((50 - 3.46, 50 + 3.46), abs=0.3)


def test_one_prompt_has_no_interval() -> None:
    """One prompt shows no spread, and an interval of no width would claim certainty."""
    one = result({"color": {"a": 0.5}})
    found = column_interval(one, one["columns"][0])
    assert found is not None
    assert found.value == 50.0
    assert math.isnan(found.low)


def test_results_of_other_prompts_scorers_or_numbers_of_images_are_not_compared() -> None:
    """Another guidance or template is what one compares, and files may lie elsewhere."""
    elsewhere = {"locations": {"blip_vqa": {"model": "elsewhere"}}}
    assert differences_of_protocol(BEFORE, {**BEFORE, "guidance_scale": 1.0, **elsewhere}) == []
    other = {**BEFORE, "images_per_prompt": 4, "digests": {"blip_vqa": ["x"]}}
    assert differences_of_protocol(BEFORE, other) == ["images per prompt", "weights of a scorer"]


def test_the_table_shows_values_differences_protocol_and_published_figures() -> None:
    """The published row says that it is one; the trained model has its paired difference."""
    text = table(["base", "trained"], [BEFORE, AFTER])
    assert "| base | 50.00 [" in text
    assert "| trained | +10.00 [+10.00, +10.00] |" in text
    assert "| base | m | 0123456789ab | 4 | janus-plain | True | 256 | 5.0 | 1.0 | 10 | 0 |" in text
    assert "¶" not in text  # both were asked for a CoT in the same words
    both = result({"shape": {"a": 0.1, "b": 0.9}})
    assert "| EG-GRPO (published) | 60.88 |" in table(["base"], [both])


def test_the_table_says_how_given_images_were_drawn() -> None:
    """As the note beside them has it; what nobody noted is unknown."""
    of_policy = (
        *("model", "weights", "template", "cot", "max_cot_tokens", "guidance_scale", "temperature"),
        *("seed", "engine", "dtype", "instruction"),
    )
    given = {key: value for key, value in AFTER.items() if key not in of_policy}
    about = {"images": "sd", "drawn_by": {"model": "SD", "guidance_scale": 7.5, "seed": 3}}
    text = table(["base", "SD", "?"], [BEFORE, given | about, given | {"images": "found"}])
    assert "| SD | SD |  | 4 | unknown | unknown | unknown | 7.5 | unknown | 10 | 3 |" in text
    unknown = "unknown | unknown | unknown | unknown | unknown | 10 | unknown"
    assert f"| ? | images of found |  | 4 | {unknown} |" in text


@pytest.mark.parametrize(
    ("judge", "noted"), [("gpt-4o-2024-05-13", False), ("gpt-4o-mini", True), ("qwen", True)]
)
def test_published_figures_are_of_one_judge(judge: str, noted: bool) -> None:
    """Two versions of GPT-4o gave 0.54 and 0.62 for the same images (docs/evaluation.md)."""
    scorer = {"name": "judge", "not_comparable": "", "options": {"model": judge}}
    column = {**COLUMN, "name": "Culture", "weights": {"culture": 1.0}}
    of_wise = result({"culture": {"a": 0.1, "b": 0.9}}, suite="wise", scorers=[scorer])
    of_wise["columns"] = [column | {"value": 50.0}]
    text = table(["base"], [of_wise])
    assert "| EG-GRPO (published) | 49.00 |" in text
    assert ("They cannot be compared: WISE's judge is gpt-4o-2024-05-13" in text) == noted


def test_the_table_marks_another_instruction() -> None:
    """A base model from the Hub is asked in our words, a trained one perhaps in the authors'. What
    is drawn without a CoT has none."""
    other = {**AFTER, "instruction": "Describe {}."}
    text = table(["base", "other", "no CoT"], [BEFORE, other, {**AFTER, "instruction": None}])
    assert "| other ¶ |" in text
    assert "| no CoT | " in text
    assert text.count("¶") == 2
    assert "¶ other was asked for its CoT with another instruction than base: a part" in text


def test_the_table_marks_what_cannot_be_compared() -> None:
    """No difference is computed, and the reason is below the table."""
    few = {**AFTER, "images_per_prompt": 4}
    text = table(["base", "few"], [BEFORE, few])
    assert "| few † |" in text
    assert "No result can be compared with base." in text
    assert "† few cannot be compared with base: another images per prompt." in text


def test_another_analysis_of_the_prompts_is_not_compared() -> None:
    """Another spaCy or another model finds other noun chunks, and so asks other questions."""
    by = {"spacy": "3.8.18", "model": "en_core_web_sm 3.8.0"}
    first, other = ({**BEFORE, "analysed_by": by | {"spacy": v}} for v in ("3.8.18", "3.5.3"))
    assert differences_of_protocol(first, first) == []
    assert differences_of_protocol(first, other) == ["version of spaCy or of its model"]
    text = table(["base", "other"], [first, other])
    assert "† other cannot be compared with base: another version of spaCy or of its model." in text
    assert "- Noun chunks: spaCy 3.8.18 with en_core_web_sm 3.8.0;" in text


def test_another_version_of_a_library_is_marked_and_compared() -> None:
    """transformers 5.19 and 5.23 give one detector other boxes; another build is no version."""
    first = {**BEFORE, "versions": {"torch": "2.13.0+cpu", "transformers": "5.19.0"}}
    other = {**AFTER, "versions": {"torch": "2.13.0+cu130", "transformers": "5.23.0"}}
    assert other_libraries(first, other) == ["transformers 5.23.0 and not 5.19.0"]
    text = table(["base", "trained"], [first, other])
    assert "| trained § |" in text
    assert "| trained | +10.00 [+10.00, +10.00] |" in text
    assert (
        "- § trained was scored with transformers 5.23.0 and not 5.19.0: a part of its difference"
        " may be theirs." in text
    )


def test_a_judge_at_another_address_is_marked_and_compared() -> None:
    """Both servers call their model judge, and which model that is nobody knows. A scorer whose
    files were moved is the same: their digest is compared."""
    first, other = (
        of | {"locations": {"judge": {"url": url}, "clip": {"model": folder}}}
        for of, url, folder in (
            (BEFORE, "http://a:8000/v1", "files/clip"),
            (AFTER, "http://b:8000/v1", "elsewhere/clip"),
        )
    )
    assert other_servers(first, first) == []
    assert other_servers(first, other) == ["judge at http://b:8000/v1 and not at http://a:8000/v1"]
    text = table(["base", "trained"], [first, other])
    assert "| trained § |" in text
    assert "| trained | +10.00 [+10.00, +10.00] |" in text
    assert (
        "- § trained was scored with judge at http://b:8000/v1 and not at http://a:8000/v1: a part"
        " of its difference may be theirs." in text
    )


def test_differences_of_rounded_columns_are_of_the_means_before_rounding() -> None:
    """0.544 and 0.556 are printed as 54 and 56. They differ by 1.2 points, and not by 2."""
    column = {**COLUMN, "name": "Culture", "weights": {"culture": 1.0}, "decimals": 2}
    first, other = (
        {**result({"culture": {"a": mean - 0.1, "b": mean + 0.1}}),
         "suite": "wise", "columns": [{**column, "value": rounded}]}
        for mean, rounded in ((0.544, 54.0), (0.556, 56.0))
    )  # fmt: skip
    text = table(["base", "trained"], [first, other])
    assert "| trained | 56.00 [45.60, 65.60] |" in text
    assert "| trained | +1.20 [+1.20, +1.20] |" in text
    assert "- Culture: of means that were rounded to two decimals, as the paper's are." in text


def test_a_table_of_two_suites_is_refused() -> None:
    """No column would be of the same thing."""
    with pytest.raises(UserError, match="b is a result of wise, and a of compbench"):
        table(["a", "b"], [BEFORE, {**AFTER, "suite": "wise"}])


def test_a_result_with_failures_is_refused() -> None:
    """It has no values."""
    with pytest.raises(UserError, match="b has failures and no values"):
        table(["a", "b"], [BEFORE, {**AFTER, "failures": {"judge: late": 3}}])


def test_quality_is_standardised_by_the_first_result() -> None:
    """The first has mean 2 and deviation 1 in x, 20 and 10 in y. The other gains 1 and 5."""
    first = result({"x": {"a": 1.0, "b": 2.0, "c": 3.0}, "y": {"a": 10.0, "b": 20.0, "c": 30.0}})
    other = result({"x": {"a": 2.0, "b": 3.0, "c": 4.0}, "y": {"a": 15.0, "b": 25.0, "c": 35.0}})
    found = standardised([first, other], ["x", "y"])
    assert [mean and mean.value for mean in found] == pytest.approx([0.0, 0.75])
    # What one measure of a prompt gains another loses: of the sum of both nothing varies.
    moved = result({"x": {"a": 2.0, "b": 2.0, "c": 2.0}, "y": {"a": 0.0, "b": 20.0, "c": 40.0}})
    assert standardised([first, moved], ["x", "y"])[1] == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="y does not vary"):
        standardised([result({"y": {"a": 1.0, "b": 1.0}})], ["y"])
