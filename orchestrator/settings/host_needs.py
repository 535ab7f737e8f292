"""What the workers of a run need to find on their hosts. An evaluation says the same of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.settings.inputs import Inputs
from orchestrator.settings.object_store import object_store_bytes
from orchestrator.settings.resources import Role
from orchestrator.settings.run_config import ClusterConfig, RunConfig
from rewards.config import RewardConfig


@dataclass(frozen=True)
class HostNeeds:
    """What is checked on each host on which a worker of one of the roles may land."""

    cluster: ClusterConfig
    roles: Sequence[Role]
    rewards: Sequence[RewardConfig]
    model: Path | None  # of rollout workers and learner ranks; None if no role loads the policy
    # Bytes of the object store on a host that loads the policy, and on one with rewards alone.
    store_bytes: int
    reward_store_bytes: int
    vllm: bool = False  # whether rollout workers draw with vLLM
    together: bool = False  # whether all learner ranks must be on one host
    root: Path | None = None  # the folder that learner ranks write to


def needs_of_run(config: RunConfig, inputs: Inputs, wanted: Sequence[Role]) -> HostNeeds:
    """What these roles of a run need."""
    return HostNeeds(
        cluster=config.cluster,
        roles=wanted,
        rewards=config.rewards,
        model=inputs.model_path,
        store_bytes=object_store_bytes(inputs.size, config),
        reward_store_bytes=object_store_bytes(inputs.size, config, weights=False),
        vllm=config.rollout.engine == "vllm",
        together=config.learner.placement == "together",
        root=config.root,
    )
