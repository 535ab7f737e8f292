"""What the workers of a run ask of Ray: CPUs, GPUs and custom resources, role by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.settings.run_config import RunConfig
from rewards.config import RewardConfig


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
    rollout = tuple(f"rollout worker {index}" for index in range(config.rollout.workers))
    found = [
        Role("learner", ranks, learner_resources(config)),
        Role("rollout", rollout, rollout_resources(config)),
    ]
    for reward in config.rewards:
        names = tuple(f"reward worker {reward.name}/{index}" for index in range(reward.workers))
        found.append(Role(f"rewards.{reward.name}", names, reward_resources(reward)))
    return [role for role in found if role.names]


def rollout_resources(config: RunConfig) -> Resources:
    """What a rollout worker asks for."""
    rollout = config.rollout
    return Resources(rollout.cpus_per_worker, rollout.gpus_per_worker, rollout.resources)


def learner_resources(config: RunConfig) -> Resources:
    """What a learner rank asks for."""
    learner = config.learner
    return Resources(learner.cpus_per_rank, learner.gpus_per_rank, learner.resources)


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
