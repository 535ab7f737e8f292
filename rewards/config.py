"""Settings of one reward."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RewardConfig(BaseModel):
    """Which reward, how much it counts, and how many workers compute it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Name in metrics: reward/<name>.")
    factory: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:Class of the reward, importable where the workers run.",
    )
    weight: float = Field(
        1.0, allow_inf_nan=False, description="Factor of this reward in the total."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the class."
    )
    workers: int = Field(1, ge=1, description="Reward workers in this reward's pool.")
    batch_size: int = Field(64, ge=1, description="Images passed to one score() call.")
    cpus_per_worker: float = Field(1, ge=0, description="CPUs that Ray reserves for a worker.")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs that Ray reserves for a worker.")
    timeout_s: float = Field(
        600, gt=0, description="Seconds after which scoring one batch of groups counts as failed."
    )
