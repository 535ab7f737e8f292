"""The settings that a learner rank is built from. They need neither DeepSpeed nor Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from learner.config import AlgorithmConfig, LearnerConfig
from policy.checkpoint.generation_defaults import GenerationDefaults

ADAPTER_NOTE = "README.md"  # in a checkpoint's adapter/, if transformers cannot load its base


@dataclass(frozen=True)
class LearnerSettings:
    """The settings that all ranks share."""

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    checkpoint: Path  # folder with the weights to start from, which are the KL reference too
    total_steps: int  # updates of the run, for the schedule
    seed: int = 0  # of an adapter's first weights
    guidance_scale: float = 1.0  # of the rollouts; matters when the guided distribution is trained
    temperature: float = 1.0  # of the rollouts; the trained distribution is the tempered one
    deterministic: bool = False  # see policy.runtime.choose_deterministic_algorithms
    generation_defaults: GenerationDefaults = field(  # go into every checkpoint
        default_factory=GenerationDefaults
    )


@dataclass(frozen=True)
class Place:
    """The number of a rank in its process group, and where the group meets."""

    rank: int
    world_size: int
    address: str  # of rank 0
    port: int
    one_machine: bool = True
