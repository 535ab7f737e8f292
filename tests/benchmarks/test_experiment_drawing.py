"""Reward for the time of drawing, from recorded runs and given seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiments.drawing import SCALES, _bought, per_second, seconds_per_image
from benchmarks.experiments.records import Records
from policy.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_reward_is_divided_by_the_seconds_of_an_image(tmp_path: Path) -> None:
    """0.496 in 10 ms is 49.6 in a second, and 0.655 in 20 ms is 32.7, of the checkpoint before
    training. Seven arms have a row for each scale, and each arm stands there once."""
    records = Records(ROOT / "docs" / "experiments" / "results", tmp_path)
    rows = list(_bought(records, {1.0: [0.01], 2.0: [0.02]}))
    assert rows[:2] == [["none", "1", "0.496", "49.6"], ["none", "2", "0.655", "32.7"]]
    assert len(rows) == len({(label, scale) for label, scale, *_ in rows}) == 2 * 7


def test_the_interval_is_of_reward_and_seconds() -> None:
    """Student's t of two values is 12.706: half-widths of 1.2706 of 0.6 and 0.12706 of 0.02, whose
    squares add up relative to their means. One reward has none of its own."""
    assert per_second([0.5, 0.7], [0.01, 0.03]) == "30.0 ± 200.9"
    assert per_second([0.6], [0.01, 0.03]) == "30.0 ± 190.6"


def test_without_the_runs_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^study unguided: Not yet measured: 0 of 20 runs"):
        list(_bought(Records(tmp_path, tmp_path), {1.0: [1.0], 2.0: [1.0]}))


@pytest.mark.slow
def test_each_scale_is_timed_in_each_round(tmp_path: Path) -> None:
    """Real drawing; the round that warms up is not counted."""
    seconds = seconds_per_image(tmp_path, rounds=2)
    assert set(seconds) == set(SCALES)
    assert all(len(of_scale) == 2 and min(of_scale) > 0 for of_scale in seconds.values())
