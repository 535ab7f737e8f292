"""The benchmark of the proof of arrival tells a right worker from one with old parts."""

from __future__ import annotations

import pytest

from benchmarks.arrival import PART_RATE, PARTS, measure

pytest.importorskip("vllm")


@pytest.mark.slow
def test_a_right_worker_is_near_and_one_with_old_parts_is_not() -> None:
    """In float32 what two engines see of an update of 1e-5 agrees to 1 %. A worker that lacks one
    layer of one of 1e-6 is off by more than a tenth, and one that lacks less by half as much again
    as a right one."""
    lines = list(measure("float32", rates=(1e-5, PART_RATE)))
    rate, moved, change, tokens, off = lines[2].strip("| ").split(" | ")
    assert (rate, tokens) == ("1e-05", "100% / 100%")
    assert float(moved.rstrip("%")) > 99
    assert float(change) > 1e-3
    assert float(off) < 0.01
    right = float(lines[3].strip("| ").split(" | ")[-1])
    parts = dict(line.strip("| ").split(" | ") for line in lines[-len(PARTS) :])
    assert list(parts) == list(PARTS)
    assert float(parts["one layer of four"]) > 0.1
    del parts["the last norm"]  # it cannot be told from rounding
    assert min(map(float, parts.values())) > 1.5 * right
