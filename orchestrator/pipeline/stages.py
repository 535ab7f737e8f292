"""Keeps rollout and scoring going while the pipeline waits for something.

The schedule decides. This class follows its orders, and tells it and the ledger what happened. One
thread does all of it: whoever waits for a batch, for the learner or for an evaluation takes turns
here until what it waits for is there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from learner.algorithm.advantages import default_minimum_survivors
from orchestrator.pipeline.background import Background
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.learner_calls import LearnerLost
from orchestrator.pipeline.ledger import Claim, Ledger
from orchestrator.pipeline.ledger_notes import LedgerNotes
from orchestrator.pipeline.order import step_prompts, training_request
from orchestrator.pipeline.roles import Publisher, Rewards, Rollout, Waiting
from orchestrator.pipeline.scaling import NoRoom, Scaling
from orchestrator.pipeline.schedule import Batch, Drop, End, Load, Sample, Schedule, Stage, Work
from orchestrator.pipeline.step_batch import StepBatch, step_batch
from orchestrator.pipeline.take_snapshot import take_snapshot
from orchestrator.pipeline.worker_notes import WorkerNotes
from orchestrator.record.snapshot import Snapshot
from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WeightsLost,
    WorkerLeaves,
    WorkerLost,
    WorkerUp,
)
from policy.errors import RunFailed
from policy.sampling import Sampling
from policy.types import Prompt
from rewards.scored_group import ScoredGroup
from rollout.engine import GenerationRequest

if TYPE_CHECKING:
    from orchestrator.workers.learner_group import PublishedWeights

log = logging.getLogger("eg_grpo")

_LONGEST_TURN_S = 1.0
# How soon a turn that waits for workers sees that a background call is done: after this
# time, or after this share of the call's own. With hundreds of workers every turn costs.
_SHORT_TURN_S, _LATE_SHARE = 0.02, 0.01


@dataclass
class _Sampling:
    """What is sampled for a step or a job, and what came of it."""

    requests: Callable[[int, int], GenerationRequest]  # of a place and a draw
    prompts: Sequence[Prompt]
    remember: bool  # whether the score cache is used
    sampling: Sampling | None = None
    groups: dict[int, GroupRef] = field(default_factory=dict)
    scored: dict[int, ScoredGroup] = field(default_factory=dict)
    # By place and draw: a group that is lost after it was dropped is sampled and dropped again.
    dropped: dict[tuple[int, int], ScoredGroup] = field(default_factory=dict)
    claims: dict[int, Claim] = field(default_factory=dict)
    # Groups that are scored together, by draw: each has its places in order.
    scorings: dict[int, list[int]] = field(default_factory=dict)


class Stages:
    """See the module. One per run; it survives learners that are lost."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        schedule: Schedule,
        rollout: Rollout,
        rewards: Rewards,
        publisher: Publisher,
        ledger: Ledger,
        drops: Drops,
        wait: Waiting,
        no_room: NoRoom,
        tell: Callable[[Snapshot], None] | None = None,
    ) -> None:
        """``tell`` gets a snapshot of the run once a second."""
        self.schedule = schedule
        self.workers = WorkerNotes(schedule, rollout, rewards, ledger, config.learner_ranks)
        self.scaling = Scaling(config, schedule, rollout, rewards, ledger, no_room)
        self._config, self._prompts = config, prompts
        self._rollout, self._rewards, self._publisher = rollout, rewards, publisher
        self._ledger, self._drops, self._wait = ledger, drops, wait
        self._tell = tell
        self._notes = LedgerNotes(ledger)
        size = config.rollout.group_size
        self._minimum = config.algorithm.minimum_survivors or default_minimum_survivors(size)
        self._works: dict[Work, _Sampling] = {}
        self._busy: dict[str, tuple[Batch, list[Claim]]] = {}
        self._unheard: deque[RolloutEvent] = deque()
        self._weights: PublishedWeights | None = None
        self._gap = 0.0
        self._jobs = 0

    # What the training page waits for

    def expect(self, weights: PublishedWeights) -> None:
        """Have workers without work begin to load weights that are on their way. ``serve`` comes
        when all of them are there."""
        self._weights = weights
        self.schedule.expect(weights.weight_version)

    def serve(self, weights: PublishedWeights, evaluate: bool) -> float:
        """Have every worker change over to the weights between two of its batches.

        Returns when the idle ones have: the largest gap of a probe since the last call, in nats.
        With ``evaluate`` an evaluation comes next, and no new step begins before ``batch``.
        """
        self._weights = weights
        self._rollout.bring(weights)
        self.schedule.publish(weights.weight_version, hold=evaluate)
        self._turn(0.0)
        while self.schedule.loading:
            self._turn()
        gap, self._gap = self._gap, 0.0
        return gap

    def batch(self, step: int, clock: Clock) -> StepBatch:
        """The groups of ``step``, counted from 0, sampled and scored.

        Raises ``RunFailed`` when a prompt loses its group in every draw, or when none is left.
        """
        for stage in ("rollout", "reward"):  # both are in every row, also if nobody waited
            clock.seconds[f"seconds/{stage}"] += 0.0
        self.schedule.admit()
        while not self.schedule.ready(step):
            with clock.stage("reward" if self.schedule.all_sampled(step) else "rollout"):
                self._turn()
        work = self._works[step]
        places = [p for p, stage in self.schedule.stages(step).items() if stage is Stage.READY]
        if not places:
            raise RunFailed(f"step {step + 1}: every group of it was dropped; see dropped.jsonl")
        return step_batch(
            [work.groups[place] for place in places],
            [work.scored[place] for place in places],
            list(work.dropped.values()),
            self._rewards.take_usage(),
            self._config.rewards,
            self._minimum,
            self.scaling.workers,
        )

    def wait_for_starts(self) -> None:
        """Return when no rollout worker starts that must be up before the others sleep."""
        while self._rollout.starting:
            self._turn()

    def wait_for(self, background: Background[Any]) -> None:
        """Return when the background call of the learner is done."""
        self.workers.watch(background)
        while not background.done:
            if self._rollout.calls or self._rewards.calls:
                late_s = max(_SHORT_TURN_S, _LATE_SHARE * background.seconds)
                self._turn(min(_LONGEST_TURN_S, late_s))
            else:
                self._turn(0.0)
                background.wait(min(_LONGEST_TURN_S, self._rest()))

    def trained(self, step: int) -> None:
        """Step ``step`` is in the learner's weights: commit it, and forget its groups."""
        work = self._works[step]
        ready = [p for p, stage in self.schedule.stages(step).items() if stage is Stage.READY]
        self._notes.now().commit(step, step + 1, [work.claims[place] for place in ready])
        self.schedule.trained(step)
        self._forget(step)

    def evaluate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> tuple[list[GroupRef], list[ScoredGroup]]:
        """Groups of the newest weights for the requests, and their scores, in order."""
        self._jobs += 1
        name = f"evaluation {self._jobs}"
        prompts = [request.prompt for request in requests]
        self._works[name] = work = _Sampling(
            lambda place, _: requests[place], prompts, remember=True, sampling=sampling
        )
        in_group = len(requests[0].seeds)
        self.schedule.add_job(name, len(requests), groups_per_batch(self._config, in_group))
        while len(work.scored) < len(requests):
            self._turn()
        self.schedule.end_job(name)
        self._forget(name)
        return [work.groups[p] for p in sorted(work.groups)], [
            work.scored[p] for p in sorted(work.scored)
        ]

    def fall_back(self, step: int) -> None:
        """Undo what was done since weight version ``step``; the next ``serve`` goes on."""
        self.schedule.fall_back(step)
        # Every worker is asked anew to load weights.
        of_weights = (WeightsLoaded, WeightsLost)
        self._unheard = deque(event for event in self._unheard if not isinstance(event, of_weights))
        self._weights = None
        self._notes.discard()
        for name in list(self._works):
            self._forget(name)

    def replace_workers(self, reason: str) -> None:
        """Replace every rollout worker: nobody knows any more what each one was asked for."""
        for worker in self.schedule.workers:
            self._rollout.discard(worker, reason)

    # A turn

    def _turn(self, longest_s: float = _LONGEST_TURN_S) -> None:
        """Follow the orders, wait for the next answers, and tell the schedule what they say."""
        self._follow_orders()
        for pool in (self._rollout, self._rewards):
            pool.advance()
        self._hear()
        self._follow_orders()
        sampling, scoring = self._rollout.calls, self._rewards.calls
        if sampling or scoring or longest_s:
            answered = self._wait([*sampling, *scoring], min(longest_s, self._rest()))
            of_rollout = answered and set(sampling)
            for call in answered:
                (self._rollout if call in of_rollout else self._rewards).receive(call)
            self._hear()
            self._follow_orders()
        self._notes.write_if_due()
        wishes = self.workers.note()
        if wishes is not None and self._tell is not None:
            self._tell(self._snapshot())
        if not self._rollout.sleeping:  # a worker that joins would load onto the learner's GPU
            self.scaling.turn(wishes)

    def _snapshot(self) -> Snapshot:
        return take_snapshot(
            *(self.schedule, self._rollout, self._rewards),
            *(self.workers.learner_state, self.workers.ranks, self._ledger),
        )

    def _rest(self) -> float:
        """Seconds until a pool has something to do even if no answer comes."""
        return max(0.0, min(self._rollout.wake_at, self._rewards.wake_at) - time.monotonic())

    def _follow_orders(self) -> None:
        orders = self.schedule.take_orders()
        if not orders:
            return
        claims = self._lease([order for order in orders if isinstance(order, Sample)])
        for order in orders:
            if isinstance(order, Load):
                assert self._weights is not None
                self._rollout.load(order.worker, self._weights)
            elif isinstance(order, End):
                self._rollout.end(order.worker)
            elif isinstance(order, Sample):
                self._sample(order.worker, order.batch, claims.get(order.worker, []))
            else:
                self._drop(order)

    def _lease(self, orders: Sequence[Sample]) -> dict[str, list[Claim]]:
        """The claims of each worker on the groups that it is about to sample.

        The ledger is asked once for each step and draw: with many workers its answers would take
        most of this thread's time.
        """
        asked: dict[tuple[int, int], list[tuple[int, str]]] = {}
        for order in orders:
            batch = order.batch
            if isinstance(batch.work, int):
                self._work(batch.work)
                pairs = [(place, order.worker) for place in batch.places]
                asked.setdefault((batch.work, batch.draw), []).extend(pairs)
        claims: dict[str, list[Claim]] = {}
        for (step, draw), pairs in asked.items():
            places, owners = [place for place, _ in pairs], [owner for _, owner in pairs]
            seconds = self._config.rollout.timeout_s
            leased = self._notes.now().lease(step, places, owners, seconds, draw)
            by_place = {claim.place: claim for claim in leased}
            self._works[step].claims |= by_place
            for place, owner in pairs:
                claims.setdefault(owner, []).append(by_place[place])
        return claims

    def _sample(self, worker: str, batch: Batch, claims: list[Claim]) -> None:
        work = self._work(batch.work)
        if batch.draw not in work.scorings:
            stages = self.schedule.stages(batch.work)
            open_stages = (Stage.WAITING, Stage.GENERATING)
            places = [place for place, stage in stages.items() if stage in open_stages]
            work.scorings[batch.draw] = places
            prompts = [work.prompts[place] for place in places]
            # All groups of the draw before are through; nobody may hold those without scores.
            self._rewards.end((batch.work, batch.draw - 1))
            size = len(work.requests(places[0], batch.draw).seeds)
            counted = isinstance(batch.work, int)  # no step counts the work of an evaluation
            self._rewards.begin((batch.work, batch.draw), prompts, size, work.remember, counted)
        self._busy[worker] = batch, claims
        requests = [work.requests(place, batch.draw) for place in batch.places]
        self._rollout.sample(worker, requests, work.sampling)

    def _work(self, name: Work) -> _Sampling:
        if isinstance(name, int) and name not in self._works:
            config = self._config
            prompts = step_prompts(self._prompts, config.prompts_per_step, config.seed, name)
            self._notes.now().admit(name, len(prompts))
            self._works[name] = _Sampling(
                lambda place, draw: training_request(config, prompts[place], name, place, draw),
                prompts,
                config.cache.training,
                config.training_sampling(name),
            )
        return self._works[name]

    def _drop(self, order: Drop) -> None:
        work = self._works[order.step]
        prompt = work.prompts[order.place]
        reason = f"it lost {order.losses} rollout workers in a row"
        self._notes.now().drop([work.claims[order.place]], reason, "infrastructure")
        self._drops.poisoned(order.step, prompt, reason)
        if order.draw in work.scorings:  # else it is left out when the scoring begins
            index = work.scorings[order.draw].index(order.place)
            self._rewards.drop((order.step, order.draw), index)

    # What happened

    def _hear(self) -> None:
        # What is behind an event that ends this turn, such as the loss of the weights, is heard in
        # the next one: a worker that nobody has heard of again would be waited for for ever.
        self._unheard += self._rollout.take_events()
        while self._unheard:
            self._hear_of(self._unheard.popleft())
        for key, index in self._rewards.take_lost():
            name, draw = cast(tuple[Work, int], key)
            self._group_lost(name, draw, index)
        for reason in self._rewards.take_failures():
            self._ledger.note_error(reason)
            self._ledger.count("lost/reward")
        for key, index, group in self._rewards.take_scored():
            name, draw = cast(tuple[Work, int], key)
            self._scored(name, draw, index, group)

    def _hear_of(self, event: RolloutEvent) -> None:
        if isinstance(event, WorkerUp):
            self.schedule.worker_up(event.worker)
        elif isinstance(event, WeightsLoaded):
            self._gap = max(self._gap, self._publisher.check(event.worker, event.receipt))
            self.schedule.worker_loaded(event.worker, event.receipt.weight_version)
        elif isinstance(event, WeightsLost):
            self._weights_lost(event)
        elif isinstance(event, WorkerLeaves):
            self.schedule.drain(event.worker)
        elif isinstance(event, BatchSampled):
            self._sampled(event)
        else:
            self._lost(event)

    def _weights_lost(self, event: WeightsLost) -> None:
        """The machine that held weights is gone, and with it the learner rank that made them."""
        if self.schedule.weights_lost(event.worker, event.weight_version):
            version = event.weight_version
            raise LearnerLost(f"weight version {version} is lost: {event.reason}")

    def _sampled(self, event: BatchSampled) -> None:
        _, claims = self._busy.pop(event.worker)
        version = self.schedule.serves(event.worker)
        batch = self.schedule.sampled(event.worker)
        if claims:
            # Told to the ledger in any case: it refuses and counts what comes too late.
            self._notes.sampled(claims, version)
        if batch is None:
            return
        work = self._works[batch.work]
        for place, group in zip(batch.places, event.groups, strict=True):
            work.groups[place] = group
            index = work.scorings[batch.draw].index(place)
            self._rewards.add((batch.work, batch.draw), index, group)

    def _lost(self, event: WorkerLost) -> None:
        batch, claims = self._busy.pop(event.worker, (None, []))
        self.schedule.worker_lost(event.worker)
        if claims:
            self._notes.now().release(claims, event.reason, "infrastructure")
        self._ledger.note_error(event.reason)
        self._ledger.count("lost/rollout")
        if batch is not None and isinstance(batch.work, str) and batch.work in self._works:
            self._check_job(batch.work)

    def _check_job(self, name: str) -> None:
        stages = self.schedule.stages(name)
        if lost := [place for place, stage in stages.items() if stage is Stage.DROPPED]:
            prompt = self._works[name].prompts[lost[0]]
            raise RunFailed(
                f"prompt {prompt.id} of an evaluation loses each worker that samples it"
            )

    def _scored(self, name: Work, draw: int, index: int, group: ScoredGroup) -> None:
        work = self._works.get(name)
        if work is None:
            return
        place = work.scorings[draw][index]
        if isinstance(name, str):
            work.scored[place] = group
            return
        enough = sum(total is not None for total in group.totals) >= self._minimum
        claim = work.claims[place]
        if enough:
            work.scored[place] = group
            self._notes.scored(claim)
        else:
            work.dropped[place, draw] = group
            del work.groups[place]
            reason = self._drops.too_few(name, draw, group, self._minimum)
            self._notes.now().release([claim], reason, "data")
        self.schedule.scored(name, place, enough)

    def _group_lost(self, name: Work, draw: int, index: int) -> None:
        """The machine that held a group is gone: its batch is sampled and scored again."""
        work = self._works[name]
        place = work.scorings[draw][index]
        places = self.schedule.lost(name, [place])
        if places:
            prompt, count = work.prompts[place], len(places)
            log.warning(
                "the group of prompt %s is lost; its batch of %d is repeated", prompt.id, count
            )
        self._rewards.forget((name, draw), [work.scorings[draw].index(p) for p in places])
        claims = [work.claims.pop(place) for place in places if place in work.claims]
        if claims:
            reason = "the machine that held the group is gone"
            self._notes.now().release(claims, reason, "infrastructure")
        for place in places:
            work.groups.pop(place, None)
            work.scored.pop(place, None)

    def _forget(self, name: Work) -> None:
        work = self._works.pop(name, None)
        for draw in work.scorings if work else ():
            self._rewards.end((name, draw))


def groups_per_batch(config: RunConfig, group_size: int) -> int:
    """How many groups of so many trajectories a rollout worker samples in one call."""
    return max(1, config.rollout.batch_size // group_size)
