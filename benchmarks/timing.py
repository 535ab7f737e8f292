"""Compares programs on a machine whose speed varies: interleaved runs, medians of paired ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Clock = Callable[[], float]
Result = TypeVar("Result")


def clock_of(device: str, threads: int = 1) -> Clock:
    """CPU seconds of this process for one thread, which other processes hardly touch; on a GPU, and
    for several threads, which are to overlap, seconds on the wall."""
    return time.process_time if device == "cpu" and threads == 1 else wall_clock


def wall_clock() -> float:
    """Seconds on the wall, once the GPU, if any, has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(calls: Sequence[Callable[[], Result]], rounds: int) -> list[list[Result]]:
    """What each call returns in each round, [rounds][calls]; who goes first takes turns."""
    table = []
    for number in range(rounds):
        results = {column: calls[column]() for column in np.roll(range(len(calls)), -number)}
        table.append([results[column] for column in range(len(calls))])
    return table


def interleave(
    calls: Sequence[Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> NDArray[np.float64]:
    """Seconds of each call in each round [rounds, calls]."""

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def seconds() -> float:
            start = clock()
            call()
            return clock() - start

        return seconds

    return np.array(take_turns([timed(call) for call in calls], rounds))


@dataclass(frozen=True)
class Interval:
    """A median and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: NDArray[np.float64]) -> Interval:
        drawn = np.random.default_rng(0).choice(values, size=(2000, len(values)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return Interval(float(np.median(values)), float(low), float(high))

    def times(self) -> str:
        if self.low == self.high:  # one value has no interval
            return f"{self.median:.2f}x"
        return f"{self.median:.2f}x (95 % interval {self.low:.2f} to {self.high:.2f})"

    def percent(self) -> str:
        return f"{self.median - 1:+.2%} (95 % interval {self.low - 1:+.2%} to {self.high - 1:+.2%})"
