"""What the workers of a run ask of Ray: CPUs, GPUs and custom resources, role by role.

How many threads a learner rank computes with is decided here as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.run_config import RunConfig
from rewards.config import RewardConfig
from rollout.config import RolloutConfig

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # the limit of a container: "200000 100000" is 2 cores
# The weights after an update of the embedded world are equal to the bit with one and two threads.
# With three and eight they differ by rounding, so that a run would depend on the machine's cores.
_MOST_THREADS = 2


@dataclass(frozen=True)
class Resources:
    """What one worker asks of Ray."""

    cpus: float
    gpus: float
    # Custom resources by name, such as {"rollout_host": 0.001}.
    custom: Mapping[str, float] = field(default_factory=dict)
    # Whether Ray must install packages before the process of the worker runs.
    packages: bool = False

    @property
    def for_ray(self) -> dict[str, float]:
        """The amounts by Ray's names, without those that are 0."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        return {name: amount for name, amount in amounts.items() if amount}

    def __str__(self) -> str:
        return amounts_text({"CPU": self.cpus, "GPU": self.gpus, **self.custom})


@dataclass(frozen=True)
class Role:
    """All workers of a role, which ask for the same."""

    key: str  # of its settings: rollout, learner, or rewards.<name>
    names: tuple[str, ...]  # of its workers
    each: Resources


def roles(config: RunConfig) -> list[Role]:
    """The roles of a run. The first is the hardest to place: its workers may need one host."""
    ranks = tuple(f"learner rank {rank}" for rank in range(config.learner_ranks))
    found = [
        Role("learner", ranks, learner_resources(config)),
        rollout_role(config.rollout),
        *(reward_role(reward) for reward in config.rewards),
    ]
    return [role for role in found if role.names]


def rollout_role(rollout: RolloutConfig) -> Role:
    """The rollout workers."""
    names = tuple(f"rollout worker {index}" for index in range(rollout.workers))
    return Role("rollout", names, rollout_resources(rollout))


def reward_role(reward: RewardConfig) -> Role:
    """The workers of one reward."""
    names = tuple(f"reward worker {reward.name}/{index}" for index in range(reward.workers))
    return Role(f"rewards.{reward.name}", names, reward_resources(reward))


def rollout_resources(rollout: RolloutConfig) -> Resources:
    """What a rollout worker asks for."""
    return Resources(rollout.cpus_per_worker, rollout.gpus_per_worker, rollout.resources)


def learner_resources(config: RunConfig) -> Resources:
    """What a learner rank asks for."""
    learner = config.learner
    return Resources(learner.cpus_per_rank, learner.gpus_per_rank, learner.resources)


def learner_threads(config: RunConfig) -> int:
    """The compute threads of a learner rank.

    At ``max_staleness`` 0 the rollout workers wait while the learner computes, so that the cores
    are free for the ranks. A private cluster has the cores of this machine. On an existing one a
    rank has the CPUs that it reserves. With a larger staleness all roles compute at the same time.

    A rank on a GPU needs one core to launch kernels. With ``offload_optimizer`` its AdamW goes
    through 16 bytes of host memory a parameter in each step, and takes all cores, at any staleness.
    """
    learner = config.learner
    if learner.threads is not None:
        return learner.threads
    private = cluster_address(config.cluster.address) is None
    share = max(usable_cores() // learner.ranks if private else int(learner.cpus_per_rank), 1)
    if learner.device == "cuda":
        return share if learner.offload_optimizer else 1
    return 1 if config.max_staleness else min(share, _MOST_THREADS)


def usable_cores() -> int:
    """The cores that this process may use: a container may have fewer than the machine."""
    allowed = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max 100000")
        quota, period = map(int, _QUOTA.read_text().split())
        allowed = min(allowed, max(1, quota // period))
    return allowed


def reward_resources(reward: RewardConfig) -> Resources:
    """What a worker of this reward asks for."""
    return Resources(
        reward.cpus_per_worker,
        reward.gpus_per_worker,
        reward.resources,
        packages=bool(reward.runtime_env.pip),
    )


def amounts_text(amounts: Mapping[str, float]) -> str:
    """Amounts by Ray's names as text, such as ``2 CPUs, 0.5 GPUs, 1 rollout_host``."""
    words = {"CPU": "CPUs", "GPU": "GPUs"}
    return ", ".join(f"{amount:g} {words.get(name, name)}" for name, amount in amounts.items())
