"""What workers are started from: rollout and reward workers, in training and in evaluation alike,
and learner ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from learner.rank_settings import LearnerSettings
from orchestrator.settings.resources import learner_threads
from orchestrator.settings.run_config import ClusterConfig, RunConfig
from policy.base_settings import Dtype
from rewards.config import CacheConfig, RewardConfig
from rollout.config import RolloutConfig


class PolicySettings(Protocol):
    """How the policy is used."""

    @property
    def template(self) -> str: ...
    @property
    def dtype(self) -> Dtype: ...


class WorkerSettings(Protocol):
    """The settings that both ``RunConfig`` and ``SuiteConfig`` have."""

    @property
    def model(self) -> PolicySettings: ...
    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def rewards(self) -> tuple[RewardConfig, ...]: ...
    @property
    def cache(self) -> CacheConfig: ...
    @property
    def cluster(self) -> ClusterConfig: ...
    @property
    def deterministic(self) -> bool: ...


class PolicyFiles(Protocol):
    """The checkpoint that rollout workers load, and the CoT instruction."""

    @property
    def model_path(self) -> Path: ...
    @property
    def instruction(self) -> str | None: ...


def learner_settings(config: RunConfig, files: PolicyFiles) -> LearnerSettings:
    """What every learner rank of a run is built from."""
    return LearnerSettings(
        learner=config.learner,
        algorithm=config.algorithm,
        checkpoint=files.model_path,
        dtype=config.model.dtype,
        template=config.model.template,
        instruction=files.instruction,
        sampling=config.final_sampling,
        total_steps=config.steps,
        seed=config.seed,
        deterministic=config.deterministic,
        threads=learner_threads(config),
    )
