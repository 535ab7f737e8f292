"""What rollout and reward workers are started from, in training and in evaluation alike."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from orchestrator.settings.run_config import ClusterConfig
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
