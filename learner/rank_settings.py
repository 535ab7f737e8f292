"""What a learner rank is built from; light enough for every process to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.config import AlgorithmConfig, LearnerConfig
from policy.sampling import Sampling
from policy.settings import Dtype

ADAPTER_NOTE = "README.md"  # in a checkpoint's adapter/, when there is something to say of its base


@dataclass(frozen=True)
class LearnerSettings:
    """What all ranks have in common."""

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    checkpoint: Path  # folder that training starts from, and the KL reference
    dtype: Dtype  # of the policy's weights; bfloat16 has float32 master weights beside them
    template: str  # of the rollouts' prompts; goes into every checkpoint, as the next two do
    instruction: str | None
    sampling: Sampling  # of the rollouts: its tempered distribution is trained
    total_steps: int  # updates of the run, for the schedule
    seed: int = 0  # of an adapter's first weights
    deterministic: bool = False  # see policy.runtime.choose_deterministic_algorithms


@dataclass(frozen=True)
class Place:
    """Where a rank stands in its group, and where the group meets."""

    rank: int
    world_size: int
    address: str  # of rank 0
    port: int
    one_machine: bool = True
