"""A learner's settings from what a test cares about; the rest is as small as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learner.config import AlgorithmConfig, LearnerConfig
from learner.rank_settings import LearnerSettings
from policy.base_settings import Dtype
from policy.sampling import Sampling


def learner_settings(
    checkpoint: Path,
    algorithm: dict[str, Any] | None = None,
    *,
    guidance_scale: float = 1.0,
    dtype: Dtype = "float32",
    total_steps: int = 10,
    **learner: Any,
) -> LearnerSettings:
    """``algorithm`` and ``learner`` are keys of the configuration's parts of these names."""
    return LearnerSettings(
        learner=LearnerConfig(**learner),
        algorithm=AlgorithmConfig(**(algorithm or {})),
        checkpoint=checkpoint,
        dtype=dtype,
        template="shapes",
        instruction=None,
        sampling=Sampling(guidance_scale, 1.0, 64),
        total_steps=total_steps,
    )
