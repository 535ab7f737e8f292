"""The benchmark of reward models: what it counts is what it scored."""

from __future__ import annotations

import pytest

from benchmarks import rewards


@pytest.mark.parametrize("processes", ["3", "0"])
def test_processes_share_a_round_equally_or_nothing_is_measured(
    processes: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes would score 15 of 16 images, and all 16 would be counted."""
    monkeypatch.setattr("sys.argv", ["rewards", "--rewards", "git", "--processes", processes])
    with pytest.raises(SystemExit) as ended:
        rewards.main()
    assert ended.value.code == 2
    said = f"--processes: {processes} cannot share the images of a round equally: git has 16"
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
