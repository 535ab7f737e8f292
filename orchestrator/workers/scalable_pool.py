"""A pool that workers join and leave while it works.

A worker that joins is on trial until it can do its first work. If it is lost before that, nobody
takes its place: the pool has the size that it had, and says why. A run does not end because there
was no room for one more worker. A worker that leaves finishes the call that it has, and then ends.
If it is lost before that, nobody takes its place either.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray

from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.placement import Places
from orchestrator.workers.worker_pool import WorkerPool

log = logging.getLogger("eg_grpo")


@dataclass(kw_only=True, eq=False)
class Slot:
    """One worker of the pool, and every process that takes its place."""

    joining: bool = False  # it was added and has not worked yet
    leaving: bool = False  # it gets no new work

    @property
    def stays(self) -> bool:
        return not self.leaving

    @property
    @abstractmethod
    def up(self) -> bool:
        """Whether a process runs and has loaded what it needs."""


SlotOf = TypeVar("SlotOf", bound=Slot)


class ScalablePool(WorkerPool, Generic[SlotOf]):
    """See the module. ``_slots[i]`` is what the pool knows of ``workers[i]``."""

    _places: Places
    _slots: list[SlotOf]
    _numbered: int  # workers that had a name so far; a name is never used again
    _failed_starts: list[str]

    @property
    def size(self) -> int:
        """Workers that stay, with those that are lost and will be replaced."""
        return sum(slot.stays for slot in self._slots)

    @property
    def joined(self) -> int:
        """``size`` without the workers that are on trial."""
        return sum(slot.stays and not slot.joining for slot in self._slots)

    @property
    def settled(self) -> bool:
        """Whether no worker joins or leaves at the moment."""
        return not any(slot.joining or slot.leaving for slot in self._slots)

    @property
    def idle(self) -> int:
        """Workers without work."""
        return sum(state == "idle" for state in self.states.values())

    @property
    @abstractmethod
    def states(self) -> dict[str, str]:
        """What each worker does at the moment, in one word, by the worker's name."""

    def take_failed_starts(self) -> list[str]:
        """Why workers that joined were lost before they could work, since the last call."""
        failed, self._failed_starts = self._failed_starts, []
        return failed

    def resize(self, size: int) -> None:
        """Have ``size`` workers, at least one; returns at once.

        A worker that is not up leaves first, because it leaves no work behind. Of the others the
        newest leaves first.
        """
        for _ in range(size - self.size):
            self._slots.append(self._join(self._numbered))
            self._numbered += 1
        newest_first = [slot for slot in reversed(self._slots) if slot.stays]
        leaving = sorted(newest_first, key=lambda slot: slot.up)[: max(0, self.size - size)]
        for slot in leaving:
            slot.leaving = True
            self._leave(slot)

    @abstractmethod
    def _join(self, number: int) -> SlotOf:
        """Start a worker with this number in its name."""

    @abstractmethod
    def _leave(self, slot: SlotOf) -> None:
        """End the worker now if it does nothing, or else when its work is done."""

    def _without_process(self, index: int) -> None:
        name = self.names[index]
        if not self._start_where_it_stands_back(index) and self._places.ask_again(name):
            log.info("the host that had the place of %s is gone; Ray is asked anew for one", name)
            ray.kill(self.workers[index])
            self._load_again(index)

    def _start_where_it_stands_back(self, index: int) -> bool:
        """Start a worker again that has stood back for the learner's ranks; False for any other.

        It waited for a place, and waits for the new one now: this is no loss. Ray does not always
        say that the old process will not come.
        """
        if not self._places.stood_back(self.names[index]):
            return False
        ray.kill(self.workers[index])
        self._load_again(index)
        return True

    @abstractmethod
    def _load_again(self, index: int) -> None:
        """Start a process in the place of one that is gone, and have it load."""

    def _end(self, slot: SlotOf) -> None:
        """End the worker's process; nobody takes its place."""
        index = self._slots.index(slot)
        name = self.names[index]
        log.info("%s has left", name)
        self._remove(index)
        self._places.give_back(name)
        del self._slots[index]

    def _ends_with_loss(self, slot: SlotOf, failure: WorkerFailed) -> bool:
        """Whether a worker that was lost is not replaced; then it is gone now."""
        if not (slot.joining or slot.leaving):
            return False
        if slot.joining:
            self._failed_starts.append(str(failure))
        log.warning("%s; it is not replaced", failure)
        self._end(slot)
        return True
