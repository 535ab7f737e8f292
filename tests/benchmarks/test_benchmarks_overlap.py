"""The benchmark of overlapping stages, with pools that sleep for a moment."""

from __future__ import annotations

import pytest

from benchmarks import overlap
from tests.command_line import ROOT


def test_each_staleness_has_a_row_of_its_step_and_its_stages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps are counted of each. Who learns sleeps 0.2 s whatever overlaps, so the column of
    learning has no less, and a step is no shorter than that."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("REDIS_URL", raising=False)
    options = "--rollout 0.1 --reward 0.02 --learn 0.2 --sync 0.01 --steps 5"
    monkeypatch.setattr("sys.argv", ["overlap", "stand-ins", *options.split()])
    assert overlap.main() == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| staleness | step | rollout | reward | learn | sync | of the longest stage |"
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[0] for row in cells] == ["0", "1", "2"]
    for row in cells:
        step, rollout, reward, learn, sync = map(float, row[1:6])
        assert step >= learn >= 0.2
        assert min(rollout, reward, sync) >= 0
        # Both are rounded.
        assert float(row[6].removesuffix(" x")) == pytest.approx(step / 0.2, abs=0.05)
