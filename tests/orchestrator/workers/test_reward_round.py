"""How a round of scoring cuts groups into batches, without a pool."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.workers.reward_round import Batch, Round
from orchestrator.workers.rollout_events import GroupRef
from policy.types import Prompt, RewardFailure, Score
from rewards.config import RewardConfig

# Two groups of two images in each batch.
CONFIG = RewardConfig(name="r", factory="a:B", batch_size=4, retry_delay_s=0.0)
PROMPT = Prompt("p:1", "a red circle", "color")


def group() -> GroupRef:
    ref: Any = object()
    return GroupRef(PROMPT, ref, 2)


def taken(round: Round) -> list[Batch]:
    """All batches that a single worker would get now."""
    found = []
    while batch := round.take(0, [False], time.monotonic() + 1):
        found.append(batch)
    return found


def places(batches: list[Batch]) -> list[list[int]]:
    return [[place for place, _ in batch.members] for batch in batches]


def scores(batch: Batch) -> list[list[Score]]:
    return [[Score(1.0)] * len(indices) for _, indices in batch.members]


def test_a_batch_waits_for_all_of_its_groups() -> None:
    """Five groups: places 0 and 1, 2 and 3, and 4 alone."""
    round = Round([2] * 5, CONFIG, remember=False)
    for place in (1, 2, 4):
        round.add(place, group())
    assert places(taken(round)) == [[4]]
    round.add(0, group())
    assert places(taken(round)) == [[0, 1]]


def test_a_dropped_group_holds_back_no_other() -> None:
    """Place 1 is dropped after its neighbour came, place 2 before. A batch of dropped groups alone
    is never scored."""
    round = Round([2] * 6, CONFIG, remember=False)
    round.add(0, group())
    assert taken(round) == []
    round.drop(1)
    assert places(taken(round)) == [[0]]
    round.drop(2)
    assert taken(round) == []
    round.add(3, group())
    assert places(taken(round)) == [[3]]
    round.drop(4)
    round.drop(5)
    assert taken(round) == []


def test_what_is_scored_is_not_scored_again_when_its_neighbour_is_dropped() -> None:
    """Both were scored, then place 1 was lost with its machine, and then it was dropped. A
    neighbour without a score is scored."""
    round = Round([2] * 2, CONFIG, remember=False)
    for place in (0, 1):
        round.add(place, group())
    (batch,) = taken(round)
    round.record(batch, scores(batch))
    round.forget([1])
    round.drop(1)
    assert taken(round) == []
    assert round.result(0) == (Score(1.0), Score(1.0))

    round = Round([2] * 2, CONFIG, remember=False)
    for place in (0, 1):
        round.add(place, group())
    round.forget([1])  # before a worker took the batch
    round.drop(1)
    assert places(taken(round)) == [[0]]


def test_a_batch_that_is_tried_again_keeps_its_groups() -> None:
    """Only the image that failed for the moment is scored again, on the next worker."""
    round = Round([2] * 2, CONFIG, remember=False)
    for place in (0, 1):
        round.add(place, group())
    (batch,) = taken(round)
    busy = RewardFailure("busy", transient=True)
    assert round.record(batch, [[Score(1.0), busy], [Score(1.0), Score(1.0)]])
    (again,) = taken(round)
    assert (again.members, again.home, again.attempt) == (((0, (1,)),), batch.home + 1, 2)
