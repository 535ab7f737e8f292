"""Gathers what the driver sees at one moment from the schedule, the pools and the ledger."""

from __future__ import annotations

from collections import Counter

from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.roles import Rewards, Rollout
from orchestrator.pipeline.schedule import Schedule, Stage
from orchestrator.record.snapshot import Snapshot

# Groups with too few scores wait in the ledger: they are drawn again.
_STATES = {stage: stage.value for stage in Stage if stage is not Stage.DROPPED} | {
    Stage.TOO_FEW: Stage.WAITING.value
}


def take_snapshot(
    schedule: Schedule,
    rollout: Rollout,
    rewards: Rewards,
    learner_state: str,
    ranks: int,
    ledger: Ledger,
) -> Snapshot:
    """What the driver sees now; ``ranks`` is the number of learner ranks. Asks Redis once."""
    states = {("rollout", "", state): n for state, n in Counter(rollout.states.values()).items()}
    queued = {("rollout", ""): schedule.waiting}
    for reward, pool in rewards.pools.items():
        for state, n in Counter(pool.states.values()).items():
            states["reward", reward, state] = n
        queued["reward", reward] = pool.queued
    if ranks:
        states["learner", "", learner_state] = ranks
    groups = dict.fromkeys(_STATES.values(), 0)
    for step in schedule.steps:
        stages = list(schedule.stages(step).values())
        for stage, state in _STATES.items():
            groups[state] += stages.count(stage)  # compares identities, and hashes nothing
    served = [schedule.serves(worker) for worker in schedule.workers]
    return Snapshot(
        published=schedule.published,
        serving=[version if version >= 0 else None for version in served],
        workers=states,
        queued=queued,
        groups=groups,
        counts=ledger.counts(),
    )
