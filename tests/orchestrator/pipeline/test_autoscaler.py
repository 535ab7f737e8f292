"""When an autoscaler adds a worker and when it takes one away: literal sequences, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest

from orchestrator.pipeline.autoscaler import WINDOW, Autoscaler


def sizes(scaler: Autoscaler, start: int, load: Iterable[tuple[int, int]]) -> list[int]:
    """The number of workers after each window in which (waiting, idle) is observed all the time."""
    found, workers = [], start
    for waiting, idle in load:
        for number in range(WINDOW):
            wanted = scaler.observe(workers, waiting, idle)
            assert wanted == workers or number == WINDOW - 1  # only at the end of a window
        workers = wanted
        found.append(workers)
    return found


def test_it_adds_one_worker_a_window_while_batches_wait_up_to_the_bound() -> None:
    """Also while workers are idle: they load weights in turns, and batches wait meanwhile."""
    assert sizes(Autoscaler(1, 3), 1, [(5, 0), (4, 0), (3, 2)]) == [2, 3, 3]


def test_it_takes_away_one_worker_a_window_while_more_than_one_is_idle_down_to_the_bound() -> None:
    """The last idle one stays: without it the others would be busy all the time."""
    assert sizes(Autoscaler(2, 8), 5, [(0, 3), (0, 2), (0, 1), (0, 5), (0, 5)]) == [4, 3, 3, 2, 2]


def test_a_single_observation_changes_nothing() -> None:
    """Ten batches wait for a third of one observation in thirty: a mean of less than one."""
    scaler = Autoscaler(1, 4)
    assert [scaler.observe(2, 10 if n == 7 else 0, 1) for n in range(WINDOW)] == [2] * WINDOW


def test_what_was_seen_before_a_change_does_not_count_after_it() -> None:
    """Batches waited for all but one observation; then somebody else has added workers."""
    scaler = Autoscaler(1, 4)
    for _ in range(WINDOW - 1):
        scaler.observe(1, 5, 0)
    scaler.forget()
    assert scaler.observe(3, 5, 0) == 3


def test_a_number_that_was_too_few_is_tried_again_only_after_twenty_windows() -> None:
    """Of six, five and four workers four are too few: five stay, although two of them are idle."""
    load = [(0, 3), (0, 2), (1, 0), *[(0, 2)] * 19, (0, 2)]
    assert sizes(Autoscaler(1, 6), 6, load) == [5, 4, 5, *[5] * 19, 4]


def test_where_there_is_no_room_it_asks_less_and_less() -> None:
    """After a refusal one window without a wish, then two, then four. What is granted ends that."""
    scaler, wished = Autoscaler(1, 8), []
    for window in range(1, 13):
        found = [scaler.observe(2, 3, 0) for _ in range(WINDOW)]
        if found[-1] == 3:
            wished.append(window)
            scaler.answered(granted=False)
    assert wished == [1, 3, 6, 11]
    scaler.answered(granted=True)
    assert sizes(scaler, 2, [(3, 0), (3, 0)]) == [3, 4]


@pytest.mark.parametrize("offered", [0.4, 1.0, 1.9, 2.5, 3.6, 5.0, 9.0])
@pytest.mark.parametrize("start", [1, 6])
def test_it_does_not_flap(start: int, offered: float) -> None:
    """So many workers' work comes in, in bursts of twice as much and then nothing. The number of
    workers turns round once at most, and then stays."""
    scaler, workers, backlog, seen = Autoscaler(1, 6), start, 0.0, [start]
    for tick in range(20 * WINDOW):
        backlog += 2 * offered if tick % 10 < 5 else 0
        done = min(backlog, workers)
        backlog = min(backlog - done, 3 * offered)  # a step is admitted only so far ahead
        workers = scaler.observe(workers, int(backlog), int(workers - done))
        seen.append(workers)
    changes = [after - before for before, after in pairwise(seen) if after != before]
    assert sum(before != after for before, after in pairwise(changes)) <= 1
    assert len(set(seen[-10 * WINDOW :])) == 1
