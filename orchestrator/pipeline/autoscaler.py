"""Decides from queue depths when a role gets one worker more or one fewer. Knows no clock.

It looks at a window of observations, taken at regular intervals, and then begins a new window. A
worker is added when one batch or more waits on average. A worker is taken away when hardly any
batch waits and more than one worker is idle on average: then the others are not all busy without
it. When a number of workers turned out to be too few, no worker is taken away down to that
number for twenty windows. So a load that comes in bursts does not add and take away in turns. When
there was no room for a worker, none is added for one window, then for two, then four, at most
twenty.
"""

from __future__ import annotations

WINDOW = 30  # observations
_MANY_WAIT, _FEW_WAIT = 1.0, 0.1  # batches, mean of a window
_MANY_IDLE = 1.5  # workers, mean of a window
_REMEMBERED = 20  # windows


class Autoscaler:
    """The decisions for one role, between two numbers of workers."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._too_few = 0  # workers that were too few when a worker was added last
        self._windows_since = 0
        self._refused = self._pause = 0  # times in a row, and windows without another wish
        self.forget()

    def forget(self) -> None:
        """Begin a new window, as after a change that others have made."""
        self._seen = self._waiting = self._idle = 0

    def answered(self, granted: bool) -> None:
        """What came of the last wish of this autoscaler."""
        self._refused = 0 if granted else self._refused + 1
        self._pause = 0 if granted else min(2 ** (self._refused - 1), _REMEMBERED)

    def observe(self, workers: int, waiting: int, idle: int) -> int:
        """The number of workers that there should be; ``workers`` is the number that there is.

        ``waiting`` is the number of batches that wait for a worker, ``idle`` that of workers
        without work.
        """
        self._seen += 1
        self._waiting += waiting
        self._idle += idle
        if self._seen < WINDOW:
            return workers
        waiting_mean, idle_mean = self._waiting / WINDOW, self._idle / WINDOW
        self.forget()
        self._windows_since += 1
        self._pause, pause = max(0, self._pause - 1), self._pause
        if waiting_mean >= _MANY_WAIT:
            if pause:
                return workers
            self._too_few, self._windows_since = workers, 0
            return max(workers, min(workers + 1, self._most))
        enough = workers - 1 > self._too_few or self._windows_since >= _REMEMBERED
        if waiting_mean < _FEW_WAIT and idle_mean >= _MANY_IDLE and enough:
            return min(workers, max(workers - 1, self._least))
        return workers
