"""A lost host that no other one replaces for a while: its workers, and those of others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts_program import found_by


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What ``tests.lost_host`` finds on a cluster of three hosts."""
    return found_by("tests.lost_host", timeout_s=600)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(700)
def test_a_learner_goes_on_with_the_ranks_that_have_a_place(found: dict[str, Any]) -> None:
    """Each of two hosts has one rank, and one of them is lost: from the checkpoint of both, one
    rank makes the same update but for rounding. When a host has come, a group of two is formed
    again, and makes it to the bit."""
    assert found["ranks"] == [2, 1, 2]
    both, alone, both_again = found["rows"]
    assert alone == pytest.approx(both, rel=1e-4, abs=1e-5)
    assert alone["grad_norm"] > 0
    assert both_again == both
    goes_on = "the learner goes on with {} of 2 ranks (learner.min_ranks); each takes a share of"
    assert [text.partition(" the batch")[0] for text in found["said"]] == [
        goes_on.format(1),
        goes_on.format(2),
    ]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(700)
def test_a_worker_without_a_place_leaves_room_for_other_runs(found: dict[str, Any]) -> None:
    """The reward worker of the lost host fits on no other one. Ray gives another run a place all
    the same, and the worker one when a host has come. All is scored, also where the worker had to
    stand back for the learner's ranks: that is not one of the two losses that it may have."""
    assert found["others"]
    assert found["scores"] == [["scored"] * 8] * 2
