"""``eg-grpo`` whose workers also sleep with each call, which stands for the time of a GPU each.

Everything else is real: the policy, the learner, the weights and their proofs, the ledger. Without
the sleep, the workers would share the cores of one machine, where more of them bring little.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from learner import worker as learner_worker
from learner.shares import GroupSlice
from orchestrator.cli import main as eg_grpo
from policy.sampling import Sampling
from policy.types import Group
from rewards import worker as reward_worker
from rollout import worker as rollout_worker
from rollout.engine import GenerationRequest

ROOT = Path(__file__).parents[1]
# ``private_environment`` must be called before Ray is imported, which this module does.
_PROGRAM = """
from orchestrator.workers.cluster import private_environment
private_environment()
from benchmarks.sleeping_workers import drive
drive()
"""
COMMAND = (sys.executable, "-c", _PROGRAM)
_SLEEP = "EG_GRPO_BENCHMARK_SLEEP_{}_S"  # for the processes of the workers


class SleepingRolloutWorker(rollout_worker.RolloutWorker):
    """A rollout worker that sleeps with each batch."""

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        _sleep("rollout")
        return super().generate(requests, sampling)


class SleepingRewardWorker(reward_worker.RewardWorker):
    """A reward worker that sleeps with each batch."""

    def score(
        self, selection: Sequence[Sequence[int]], *groups: Group, remember: bool = False
    ) -> reward_worker.Reply:
        _sleep("reward")
        return super().score(selection, *groups, remember=remember)


class SleepingLearnerWorker(learner_worker.LearnerWorker):
    """A learner rank that sleeps with each update."""

    def update(self, slices: Sequence[GroupSlice], timeout_s: float) -> dict[str, float]:
        _sleep("learn")
        return super().update(slices, timeout_s)


def drive() -> None:
    """``eg-grpo`` with workers that sleep."""
    rollout_worker.RolloutWorker = SleepingRolloutWorker  # type: ignore[misc]
    reward_worker.RewardWorker = SleepingRewardWorker  # type: ignore[misc]
    learner_worker.LearnerWorker = SleepingLearnerWorker  # type: ignore[misc]
    sys.exit(eg_grpo())


def environment(rollout: float = 0.0, reward: float = 0.0, learn: float = 0.0) -> dict[str, str]:
    """The environment of ``COMMAND``, whose workers sleep so many seconds with each call."""
    seconds = {"rollout": rollout, "reward": reward, "learn": learn}
    variables = {_variable(work): str(each) for work, each in seconds.items()}
    return os.environ | variables | {"PYTHONPATH": str(ROOT)}


def _sleep(work: str) -> None:
    time.sleep(float(os.environ[_variable(work)]))


def _variable(work: str) -> str:
    return _SLEEP.format(work.upper())
