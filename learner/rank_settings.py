"""The settings that a learner rank is built from. They need neither DeepSpeed nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.config import AlgorithmConfig, LearnerConfig
from policy.base_settings import Dtype
from policy.sampling import Sampling

# The note in a checkpoint's adapter/ when transformers cannot load the adapter's base.
ADAPTER_NOTE = "README.md"


@dataclass(frozen=True)
class LearnerSettings:
    """The settings that all ranks share."""

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    checkpoint: Path  # folder with the weights to start from, which are the KL reference too
    # Type of the policy's weights. With bfloat16, the optimizer also keeps them in float32.
    dtype: Dtype
    # Template, instruction and sampling of the rollouts. Every checkpoint stores the three.
    template: str
    instruction: str | None
    # The learner trains the distribution at this temperature.
    sampling: Sampling
    # The number of updates of the run. The learning-rate schedule needs it.
    total_steps: int
    # Seed of an adapter's first weights.
    seed: int = 0
    threads: int = 1  # compute threads of a rank
    deterministic: bool = False  # see policy.runtime.choose_deterministic_algorithms


@dataclass(frozen=True)
class Place:
    """The number of a rank in its process group, and where the group meets."""

    rank: int
    world_size: int
    address: str  # the address of rank 0, where the ranks meet
    port: int
    one_machine: bool = True
