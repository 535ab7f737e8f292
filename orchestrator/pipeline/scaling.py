"""Carries out wishes for other numbers of workers while the run goes on.

A wish is in the ledger (``ScalingEntry``). Whoever reaches the ledger may add one: ``eg-grpo
scale``, an autoscaler, or a run that is resumed. The driver alone answers it. It refuses a wish, or
it has the pools start and drain workers and answers when they have. A later wish supersedes the
one that is being carried out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from orchestrator.pipeline.autoscaler import Autoscaler
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_view import DONE, ScalingEntry
from orchestrator.pipeline.roles import Rewards, Rollout, Scalable
from orchestrator.pipeline.schedule import Schedule
from orchestrator.settings.resources import Resources
from orchestrator.settings.run_config import RunConfig
from rewards.config import RewardConfig
from rollout.config import RolloutConfig

log = logging.getLogger("eg_grpo")

ROLLOUT = "rollout"  # the role of rollout workers; that of reward workers is the reward's name
_AUTOSCALER = "the autoscaler"  # who asks, in the ledger
# Why the cluster has no room for so many more workers; None if it has.
NoRoom = Callable[[Resources, int], str | None]


class Scaling:
    """The numbers of workers of one run. ``turn`` must be called again and again."""

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        rollout: Rollout,
        rewards: Rewards,
        ledger: Ledger,
        no_room: NoRoom,
    ) -> None:
        self._schedule, self._ledger, self._no_room = schedule, ledger, no_room
        self._pools: dict[str, Scalable] = {ROLLOUT: rollout, **rewards.pools}
        self._settings: dict[str, RolloutConfig | RewardConfig] = {
            ROLLOUT: config.rollout,
            **{reward.name: reward for reward in config.rewards},
        }
        self._autoscalers = {
            role: Autoscaler(settings.min_workers, settings.most_workers)
            for role, settings in self._settings.items()
            if settings.autoscale
        }
        self._open: ScalingEntry | None = None  # the wish that is being carried out
        self._failures: list[str] = []

    @property
    def workers(self) -> dict[str, int]:
        """The workers of each role that have joined and do not leave."""
        return {role: pool.joined for role, pool in self._pools.items()}

    def go_on(self, earlier: Sequence[ScalingEntry]) -> None:
        """In a run that is resumed, wish for the numbers that were granted last.

        A role for which a wish still waits for an answer is left to that wish.
        """
        wanted: dict[str, int] = {}
        for entry in earlier:
            if entry.answer == DONE:
                wanted |= entry.wanted
            elif not entry.answer:
                wanted = {role: n for role, n in wanted.items() if role not in entry.wanted}
        sizes = {role: pool.size for role, pool in self._pools.items()}
        if changed := {role: n for role, n in wanted.items() if sizes.get(role) != n}:
            self._ledger.wish("the resumed run", changed)

    def turn(self, wishes: Sequence[ScalingEntry] | None) -> None:
        """Take up the wishes that wait for an answer, and answer the one that is carried out.

        ``wishes`` is None between two readings of the ledger.
        """
        if wishes is not None:
            self._observe()
            for wish in wishes:
                if self._open is None or wish.id != self._open.id:
                    self._take_up(wish)
        self._finish()

    def _take_up(self, wish: ScalingEntry) -> None:
        before = {role: pool.size for role, pool in self._pools.items() if role in wish.wanted}
        self._ledger.take_up(wish.id, before)
        if (refusal := self._refusal(wish.wanted)) is not None:
            self._answer(wish, f"refused: {refusal}")
            return
        if self._open is not None:
            self._answer(self._open, f"superseded by a wish of {wish.asked_by}")
        self._open, self._failures = wish, []
        for role, count in wish.wanted.items():
            self._pools[role].resize(count)

    def _refusal(self, wanted: Mapping[str, int]) -> str | None:
        """Why the wish cannot be granted; None if it can.

        Room is looked for role by role. If all roles together do not fit, workers do not start,
        and that is the answer.
        """
        for role, count in wanted.items():
            if role not in self._pools:
                return f"unknown role {role!r}; there are {', '.join(self._pools)}"
            settings = self._settings[role]
            if count < settings.min_workers:
                return f"{role}={count} is below its min_workers, {settings.min_workers}"
            if settings.max_workers is not None and count > settings.max_workers:
                return f"{role}={count} is above its max_workers, {settings.max_workers}"
            pool = self._pools[role]
            more = count - pool.size
            if more > 0 and (lacks := self._no_room(pool.resources, more)) is not None:
                return f"{role}={count}: {lacks}"
        return None

    def _finish(self) -> None:
        for pool in self._pools.values():
            self._failures += pool.take_failed_starts()
        if self._open is None or not all(pool.settled for pool in self._pools.values()):
            return
        reached = {role: self._pools[role].size for role in self._open.wanted}
        if reached == self._open.wanted:
            answer = DONE
        else:
            have = ", ".join(f"{role} has {count}" for role, count in reached.items())
            answer = f"failed: {have}: {'; '.join(dict.fromkeys(self._failures))}"
        self._answer(self._open, answer)
        self._open = None

    def _answer(self, wish: ScalingEntry, answer: str) -> None:
        self._ledger.answer(wish.id, answer)
        wanted = ", ".join(f"{role}={count}" for role, count in wish.wanted.items())
        log.log(
            logging.INFO if answer == DONE else logging.WARNING,
            "scale %s (asked by %s): %s",
            *(wanted, wish.asked_by, answer),
        )
        for role, autoscaler in self._autoscalers.items():
            autoscaler.forget()
            own = wish.asked_by == _AUTOSCALER and role in wish.wanted
            if own and not answer.startswith("superseded"):
                autoscaler.answered(granted=answer == DONE)

    def _observe(self) -> None:
        if self._open is not None:
            return
        for role, autoscaler in self._autoscalers.items():
            pool = self._pools[role]
            waiting = self._schedule.waiting if role == ROLLOUT else pool.queued
            wanted = autoscaler.observe(pool.size, waiting, pool.idle)
            if wanted != pool.size:
                self._ledger.wish(_AUTOSCALER, {role: wanted})
