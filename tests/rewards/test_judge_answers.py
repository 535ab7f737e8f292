"""What a judge of WISE may answer, and every answer that the authors' programs misread."""

from __future__ import annotations

import pytest

from rewards.judge_answers import legacy_scores, legacy_wiscore, verified_score

SCORES = {"consistency": 2.0, "realism": 1.0, "aesthetic quality": 0.0}


@pytest.mark.parametrize(
    "answer",
    [
        "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
        "**Consistency**: 2\n**Realism**: 1\n**Aesthetic Quality**: 0",
        "**Consistency:** 2\n**Realism:** 1\n**Aesthetic Quality:** 0",
        "consistency: 2, realism: 1, aesthetic quality: 0.",
        "Realism: 1; Aesthetic Quality: 0; Consistency: 2",
        "2\n1\n0\n",
        "<think>Consistency: 0 perhaps</think>\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0",
    ],
)
def test_three_scores_are_read(answer: str) -> None:
    """By name in any order, or three lines in the order of the question."""
    assert legacy_scores(answer) == SCORES


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "no scores"),
        ("I cannot judge this image.", "no scores"),
        ("2\n1", "no scores"),
        ("2\n1\n0\n0", "no scores"),
        ("2\n1\ntwo", "score 'two'"),
        ("Inconsistency: 2\nRealism: 1\nAesthetic Quality: 0", "0 scores of consistency"),
        ("Consistency: 2\nRealism: 1", "0 scores of aesthetic quality"),
        ("Consistency: 2\nConsistency: 1\nRealism: 1\nAesthetic Quality: 0", "2 scores of consi"),
        ("Consistency: 10\nRealism: 1\nAesthetic Quality: 0", "score '10'"),
        ("Consistency: 1.5\nRealism: 1\nAesthetic Quality: 0", "score '1.5'"),
        ("Consistency: 9\nRealism: 1\nAesthetic Quality: 0", "score '9'"),
        ("Consistency: 3\nRealism: 1\nAesthetic Quality: 0", "score '3'"),
        ("Consistency: true\nRealism: 1\nAesthetic Quality: 0", "0 scores of consistency"),
        ("Consistency： 2\nRealism: 1\nAesthetic Quality: 0", "0 scores of consistency"),
        ("<think>Consistency: 2\nRealism: 1\nAesthetic Quality: 0", "while the model is thinking"),
    ],
)
def test_any_other_answer_is_an_error(answer: str, problem: str) -> None:
    """The authors' program takes 10 for 1, 1.5 for 1, 9 for 9, and the last of two scores."""
    with pytest.raises(ValueError, match=problem):
        legacy_scores(answer)


def test_wiscore() -> None:
    """(0.7 x 2 + 0.2 x 1 + 0.1 x 0) / 2 = 0.8."""
    assert legacy_wiscore(SCORES) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Score: 1", 1.0),
        ("**Score:** 0", 0.0),
        ("score: 1.", 1.0),
        ("1\n", 1.0),
        ("<think>Score: 0? No.</think>\n\nScore: 1", 1.0),
    ],
)
def test_one_score_is_read(answer: str, score: float) -> None:
    """WISE verified: a name and 0 or 1, or the number alone."""
    assert verified_score(answer) == score


@pytest.mark.parametrize(
    "answer",
    ["", "yes", "Score: 10", "Score: 0.5", "Score: 2", "Score: 0\nScore: 1", "0\n1", "<think>1"],
)
def test_any_other_single_answer_is_an_error(answer: str) -> None:
    """The authors' program takes 0.5 for 0, and the first of two scores."""
    with pytest.raises(ValueError, match=r"score|thinking"):
        verified_score(answer)
