"""Rewards before and after: paired over prompts, with one standard error."""

from __future__ import annotations

import math

import pytest

from orchestrator.report.comparison import change_table, compare, evaluated_sets, headline
from tests.written_runs import row_of


def test_the_headline_is_paired_over_prompts() -> None:
    """Changes 0.1, 0.2, 0.3: mean 0.2, standard error 0.1/sqrt(3), though prompts differ by 0.8."""
    rows = [row_of(0, [0.1, 0.5, 0.9]), row_of(20, [0, 0, 0]), row_of(40, [0.2, 0.7, 1.2])]
    found = compare("seen", rows)
    assert (found.before_step, found.after_step) == (0, 40)
    assert found.before == pytest.approx(0.5)
    assert found.after == pytest.approx(0.7)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2)
    assert found.difference.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert found.standard_errors == pytest.approx(2 * math.sqrt(3))
    assert (found.num_prompts, found.num_samples) == (3, 12)


def test_only_prompts_that_both_evaluations_scored_count() -> None:
    """A prompt without a score, or beyond the shorter evaluation, changes no number."""
    rows = [row_of(0, [0.1, None, 0.5, 0.3]), row_of(40, [0.2, 0.9, None, 0.6, 1.0])]
    found = compare("seen", rows)
    assert found.before == pytest.approx(0.2)
    assert found.after == pytest.approx(0.4)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2)
    assert found.num_prompts == 2


@pytest.mark.parametrize("change", [0.0, 0.25])
def test_no_spread_is_no_certainty(change: float) -> None:
    """Equal changes have standard error 0, one prompt has none: neither gives a ratio."""
    equal = compare("seen", [row_of(0, [0.5, 0.5]), row_of(1, [0.5 + change] * 2)])
    assert equal.difference is not None
    assert (equal.difference.standard_error, equal.standard_errors) == (0, None)
    single = compare("seen", [row_of(0, [0.5]), row_of(1, [0.5 + change])])
    assert single.difference is not None
    assert math.isnan(single.difference.standard_error)
    assert single.standard_errors is None


def test_sets_are_told_apart_by_guidance() -> None:
    """A set at two scales is two sets; of two rows of one step, as a resumed run has, the last."""
    keys = [("seen", 5, 0), ("seen", 5, 2), ("seen", 1, 0), ("other", 1, 3), ("other", 1, 3)]
    rows = [
        {"set": name, "guidance_scale": scale, "step": step, "place": place}
        for place, (name, scale, step) in enumerate(keys)
    ]
    places = {
        label: [row["place"] for row in found] for label, found in evaluated_sets(rows).items()
    }
    assert places == {"seen, w = 5": [0, 1], "seen, w = 1": [2], "other": [4]}


def test_the_table_holds_first_and_last_means() -> None:
    """Totals, rewards, details and tasks in this order; what one side lacks has no difference."""
    first = {"reward/mean": 0.5, "reward/standard_error": 0.1, "by_task": {"color": 0.25}}
    last = {"reward/mean": 0.75, "reward/hps": 0.5, "detail/hps/strict": 0.125, "by_task": {}}
    table = change_table({"seen": [row_of(0, [], **first), row_of(9, [], **last)]})
    assert [(row.name, row.changes[0].before, row.changes[0].after) for row in table] == [
        ("reward", 0.5, 0.75),
        ("hps", None, 0.5),
        ("hps/strict", None, 0.125),
        ("color", 0.25, None),
    ]
    assert [row.changes[0].difference for row in table] == [0.25, None, None, None]


def test_the_headline_of_the_command_line() -> None:
    """Prompt means 0.2, 0.4 become 0.5, 0.9: +0.4 with standard error 0.1; one row has none."""
    rows = [
        {"step": step, "prompt_means": means, "num_samples": 8, "num_failed": 0}
        for step, means in ((0, [0.2, 0.4]), (5, [0.5, 0.9]))
    ]
    assert headline(compare("seen", rows)) == (
        "reward on seen prompts: 0.300 -> 0.700, +0.400 ± 0.100 (standard error), 8 samples"
    )
    assert headline(compare("seen", rows[:1])) == "reward on seen prompts: 0.300, 8 samples"
    scaled = headline(compare("seen, w = 2", rows[:1]))
    assert scaled == "reward on seen prompts, w = 2: 0.300, 8 samples"


def test_the_headline_of_fewer_than_two_prompts() -> None:
    """One prompt has no standard error. When none was scored there is no reward."""
    counts = {"num_samples": 4, "num_failed": 0}
    first, last, nothing = (
        {"step": step, "prompt_means": means, **counts}
        for step, means in ((0, [0.2]), (5, [0.5]), (6, [None]))
    )
    assert headline(compare("seen", [first, last])) == (
        "reward on seen prompts: 0.200 -> 0.500, +0.300, 4 samples"
    )
    assert headline(compare("seen", [first, nothing])) == (
        "reward on seen prompts: no prompt was scored, 4 samples"
    )
