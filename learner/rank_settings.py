"""The settings that a learner rank is built from. They need neither DeepSpeed nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.config import AlgorithmConfig, LearnerConfig
from policy.base_settings import Dtype
from policy.sampling import Sampling

ADAPTER_NOTE = "README.md"  # in a checkpoint's adapter/, if transformers cannot load its base


@dataclass(frozen=True)
class LearnerSettings:
    """The settings that all ranks share."""

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    checkpoint: Path  # folder with the weights to start from, which are the KL reference too
    dtype: Dtype  # of the policy's weights; bfloat16 has float32 master weights beside them
    template: str  # of the rollouts' prompts; goes into every checkpoint, as the next two do
    instruction: str | None
    sampling: Sampling  # of the rollouts: its tempered distribution is trained
    total_steps: int  # updates of the run, for the schedule
    seed: int = 0  # of an adapter's first weights
    deterministic: bool = False  # see policy.runtime.choose_deterministic_algorithms


@dataclass(frozen=True)
class Place:
    """The number of a rank in its process group, and where the group meets."""

    rank: int
    world_size: int
    address: str  # of rank 0
    port: int
    one_machine: bool = True
