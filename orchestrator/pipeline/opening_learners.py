"""Forms the learner groups of a run, one after another.

Failure policy: a group whose rank dies, raises or is late raises ``WorkerFailed``, and the caller
decides whether another one is formed. A lost host that no other one replaces ends no group if
``learner.min_ranks`` allows a smaller one: that one is formed instead, and a line says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.pipeline.idle_learner import IdleLearner
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.roles import Learner
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.resources import roles
from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.failures import WorkerDied, WorkerLate, WorkerNotStarted, WorkerStopped
from orchestrator.workers.learner_group import LearnerGroup, RanksWithoutPlace
from orchestrator.workers.placement import Places, claims
from orchestrator.workers.stopped_workers import StoppedWorkers

log = logging.getLogger("eg_grpo")


class Learners:
    """See the module. Only one group exists at a time."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        places: Places,
        stopped: StoppedWorkers,
        say: Callable[[str], None],
    ) -> None:
        """``say`` gets a line when a group of another number of ranks is formed."""
        self._config, self._inputs, self._places = config, inputs, places
        self._stopped, self._say = stopped, say
        self._group: LearnerGroup | None = None
        self._last_ranks = config.learner.ranks  # of the group that was formed last

    def start(self) -> None:
        """End the group there is, and start the ranks of a new one; returns at once.

        After a smaller group the new one has as many ranks as there is room for by now: hosts that
        have not come back meanwhile are not waited for again.
        """
        self.close()
        if self._config.stages == "rollout":
            return
        every, learner = self._config.learner.ranks, self._config.learner
        smaller = self._group is not None and self._group.ranks < every
        self._start(self._claim_again(learner.fewest_ranks) if smaller else every)

    def formed(self, checkpoint: Path | None) -> Learner:
        """The group that was started, once it has loaded the checkpoint.

        Raises ``RanksWithoutPlace`` when ranks have no place after ``learner.start_timeout_s``.
        """
        if self._group is None:
            return IdleLearner()
        began, learner = time.monotonic(), self._config.learner
        while True:
            try:
                self._group.wait_ready()
                break
            except RanksWithoutPlace as missing:
                waited_s = time.monotonic() - began
                if waited_s >= learner.start_timeout_s:
                    raise
                log.warning("%s", missing)
                patient = waited_s < self._group.patience_s
                self.close()
                self._start(self._claim_again(learner.ranks if patient else learner.fewest_ranks))
        if checkpoint is not None:
            self._group.load(checkpoint)
        self._tell_of_ranks(self._group.ranks)
        return self._group

    def form_first(self, checkpoint: Path | None, ledger: Ledger) -> Learner:
        """Form the group with which the run opens. A group of which a rank dies, is late or is
        stopped is formed again, once: settings that end each group would end that one too."""
        try:
            return self.formed(checkpoint)
        except WorkerNotStarted:
            raise
        except (WorkerDied, WorkerLate, WorkerStopped) as failure:
            if not self._config.learner.restarts:
                raise
            log.warning("%s; the group is formed again", failure)
            ledger.note_error(str(failure))
            ledger.count("lost/learner")
            return self.form_anew(checkpoint)

    def form_anew(self, checkpoint: Path | None) -> Learner:
        """Start another group and return it once it has loaded the checkpoint."""
        self.start()
        return self.formed(checkpoint)

    def close(self) -> None:
        """End the group's processes."""
        if self._group is not None:
            self._group.close()

    def _claim_again(self, fewest: int) -> int:
        ranks = [role for role in roles(self._config) if role.key == "learner"]
        (claim,) = claims(ranks, self._config.learner.placement)
        return self._places.claim_again(claim, fewest)

    def _start(self, ranks: int) -> None:
        self._group = LearnerGroup(self._config, self._inputs, self._places, ranks)
        self._stopped.over(self._group)

    def _tell_of_ranks(self, ranks: int) -> None:
        """Say so if the group has another number of ranks than the one before."""
        if ranks != self._last_ranks:
            text = (
                f"the learner goes on with {ranks} of {self._config.learner.ranks} ranks"
                " (learner.min_ranks); each takes a share of the batch that fits their number"
            )
            log.warning("%s", text)
            self._say(text)
        self._last_ranks = ranks
