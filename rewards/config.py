"""Settings of one reward and its pool of workers, and of the cache that all rewards share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from policy import secrets
from policy.base_settings import (
    CustomResources,
    Deadline,
    Ignored,
    Name,
    RedisUrl,
    Settings,
    Share,
)
from policy.worker_bounds import check_bounds


class RuntimeEnvironment(Settings):
    """Packages and variables that Ray gives only to this reward's workers (its ``runtime_env``)."""

    pip: tuple[str, ...] = Field((), description="Requirements installed for these workers.")
    env_vars: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of these workers. ${NAME} is read from the environment"
        " in which the run is started. Any other value is masked wherever it is written.",
    )

    def resolved(self) -> RuntimeEnvironment:
        """A copy with each ``${NAME}`` replaced by its value; ``UserError`` when one is not set."""
        return self.model_copy(update={"env_vars": secrets.resolved(self.env_vars)})

    def for_ray(self) -> dict[str, Any]:
        """The parts that are set, in the form of Ray's ``runtime_env``."""
        parts: dict[str, Any] = {"pip": list(self.pip), "env_vars": self.env_vars}
        return {name: part for name, part in parts.items() if part}


class RewardConfig(Settings):
    """Settings of one reward: its class, its weight and its workers."""

    name: Name = Field(description="Name of the reward in metrics: reward/<name>.")
    factory: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:Class of the reward, importable where the workers run.",
    )
    weight: float = Field(1.0, description="Factor of this reward in the total.")
    normalise: bool = Field(
        False,
        description="Train on the reward's z-score over a step's trajectories, not on its value.",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Keyword arguments of the class."
    )
    workers: int = Field(1, ge=1, description="Reward workers in this reward's pool.")
    min_workers: int = Field(1, ge=1, description="Fewest reward workers that scaling may leave.")
    max_workers: int | None = Field(
        None,
        ge=1,
        description="Most reward workers that scaling may start. Images are cut into batches for"
        " so many workers, and a private cluster has room for them.",
    )
    autoscale: bool = Field(
        False,
        description="Have the run itself add and take away workers between min_workers and"
        " max_workers, by the number of batches that wait.",
    )
    batch_size: int = Field(64, ge=1, description="Images passed to one score() call.")
    cpus_per_worker: Share = Field(1, description="CPUs that Ray reserves for a worker.")
    gpus_per_worker: Share = Field(0, description="GPUs that Ray reserves for a worker.")
    resources: CustomResources = Field(
        default_factory=dict,
        description="Custom resources of Ray that a worker needs, such as {reward_host: 0.001}. "
        "It runs only on hosts that have them.",
    )
    runtime_env: RuntimeEnvironment = Field(
        default_factory=RuntimeEnvironment,
        description="Packages and variables for this reward's workers only.",
    )
    timeout_s: Deadline = Field(
        600,
        description="Seconds that a worker may take for the images of one request."
        " A worker that takes longer is replaced.",
    )
    retries: int = Field(
        2,
        ge=0,
        description="Further attempts for images that a worker lost or that failed transiently.",
    )
    retry_delay_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="Seconds before the first retry, with jitter. The pause doubles each time.",
    )
    restarts: int = Field(
        3,
        ge=0,
        description="Losses of workers in a row, with nothing scored in between, after which they "
        "are replaced before the run stops. Workers that run side by side when one is lost count "
        "as one loss.",
    )
    cache: bool = Field(
        True,
        description="Whether the cache may remember its scores; off for one that draws lots.",
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        check_bounds(self.workers, self.min_workers, self.max_workers, self.autoscale)
        return self

    @property
    def most_workers(self) -> int:
        """The most workers that the settings speak of."""
        return self.max_workers or self.workers


class CacheConfig(Settings):
    """Settings of the score cache, which is in Redis or in each worker's memory."""

    kind: Literal["auto", "memory", "none"] = Field(
        "auto", description="auto: Redis if redis_url or REDIS_URL names one, else memory."
    )
    redis_url: RedisUrl | None = Field(
        None, description="redis://host:port/db. Give a URL with a password in REDIS_URL instead."
    )
    entries: int = Field(65536, ge=1, description="Scores that a worker's memory holds.")
    training: bool = Field(
        False,
        description="Remember scores of training images too. Evaluation scores always are.",
    )

    def ignored(self) -> Iterator[Ignored]:
        """The settings that this kind of cache does not read."""
        if self.kind != "auto":
            yield Ignored("redis_url", "has an effect with kind auto alone", ("kind",))
        if self.kind == "none":
            yield Ignored("entries", "has no effect with kind none", ("kind",))
            yield Ignored("training", "has no effect with kind none", ("kind",))
