"""The Ray actor of a reward worker: scores images with one reward.

Failure policy. A worker keeps nothing that another could not compute, so it may be killed and
replaced at any time. When a reward fails on an image, that image gets a ``RewardFailure``;
``score`` itself does not raise. The pool replaces a worker that dies or is late. A reward that
cannot be built raises ``UserError`` from ``ready``; ``rewards.factory.check_factory`` finds most
such cases before any worker starts.
This module imports torch only for a run that is to be deterministic. A reward that needs no torch
starts quickly and stays small.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from policy import secrets
from policy.runtime import choose_deterministic_algorithms, keep_freed_memory
from policy.types import Group, RewardResult
from rewards.cache import open_cache
from rewards.config import CacheConfig, RewardConfig
from rewards.factory import build_reward
from rewards.identity import scorer_identity
from rewards.scoring import RewardScorer, ScoringWork

NO_CACHE = CacheConfig(kind="none")


@dataclass(frozen=True)
class Reply:
    """Results in the order of the selection, group by group, and the work behind them."""

    results: list[list[RewardResult]]
    work: ScoringWork


class RewardWorker:
    """Scores trajectories with the reward that the settings name."""

    def __init__(
        self, config: RewardConfig, cache: CacheConfig, deterministic: bool = False
    ) -> None:
        keep_freed_memory()
        # A reward may repeat a secret in an error. From now on it is masked in failure reasons.
        secrets.hide(secrets.secrets_in(config.model_dump(mode="json")))
        if not config.gpus_per_worker:
            # Ray hides the GPUs of others from a worker that has a share of a GPU. It hides none
            # from a worker without a share.
            variables = config.runtime_env.env_vars
            os.environ["CUDA_VISIBLE_DEVICES"] = variables.get("CUDA_VISIBLE_DEVICES", "")
        self._deterministic = deterministic
        self._config = config
        self._cache = cache
        self._built: RewardScorer | None = None

    def ready(self) -> str | None:
        """The digest of the reward's weights, if it has one, once the reward is built.

        Raises ``UserError`` when it cannot be built.
        """
        return self._scorer().digest

    def score(
        self, selection: Sequence[Sequence[int]], *groups: Group, remember: bool = False
    ) -> Reply:
        """Score the selected members of each group, in the order of ``selection``.

        Each group is an argument of its own, so that a reference can be passed in its place.
        ``remember`` has the score cache read and filled.
        """
        scorer = self._scorer()
        chosen = [
            (group.trajectories[index].image, group.prompt)
            for group, indices in zip(groups, selection, strict=True)
            for index in indices
        ]
        images, prompts = [image for image, _ in chosen], [prompt for _, prompt in chosen]
        results = iter(scorer.score(images, prompts, remember))
        return Reply(
            [[next(results) for _ in indices] for indices in selection], scorer.take_work()
        )

    def _scorer(self) -> RewardScorer:
        if self._built is None:
            if self._deterministic:
                choose_deterministic_algorithms()
            reward = build_reward(self._config)
            cache = open_cache(self._cache) if self._config.cache else None
            identity = scorer_identity(self._config, reward)
            self._built = RewardScorer(reward, self._config.batch_size, cache, identity)
        return self._built


def start_reward_worker(
    config: RewardConfig,
    cache: CacheConfig = NO_CACHE,
    deterministic: bool = False,
    place: Any = None,
) -> Any:
    """An actor handle on a ``RewardWorker``; returns before the worker is ready.

    ``place`` is a scheduling strategy of Ray. Without one, Ray chooses the host.
    """
    environment = config.runtime_env.resolved()
    secrets.hide(environment.env_vars.values())
    actor = ray.remote(RewardWorker).options(
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        resources=config.resources,
        scheduling_strategy=place,
        max_restarts=0,
        runtime_env=environment.for_ray(),
    )
    resolved = config.model_copy(update={"runtime_env": environment})
    return actor.remote(resolved, cache, deterministic)
