"""The benchmark of a push: every part of it is measured, with one tensor and real actors."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from benchmarks import weight_push


@pytest.mark.cluster
def test_every_part_of_a_push_is_measured(
    ray_cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row, with a rate for each part and the shares of the two copies. The actors are on the
    cluster of the test session."""
    monkeypatch.setattr(weight_push, "ray_cluster", lambda **_: nullcontext())
    options = "--gigabytes 0.04 --workers 1 --turns 1"
    monkeypatch.setattr("sys.argv", ["weight_push", *options.split()])
    threads = torch.get_num_threads()
    try:
        weight_push.main()
    finally:
        torch.set_num_threads(threads)  # it measures copies of one thread
    _, head, _, row = capsys.readouterr().out.splitlines()
    assert head == (
        "| GB | workers | copy | torch copy | digest | publish | fetch | load | push | of copy |"
        " of torch copy |"
    )
    size, workers, *rates, of_copy, of_torch_copy = row.strip("| ").split(" | ")
    assert (size, workers) == ("0.03", "1")  # a matrix of 4096 x 4096 in bfloat16
    assert len(rates) == 7
    assert all(float(rate) > 0 for rate in rates)
    assert min(float(of_copy), float(of_torch_copy)) >= 0  # 0.00 on a busy machine
