"""A learner of one rank in the test's own process, on a tiny checkpoint."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from learner_settings import learner_settings

from benchmarks.small_models.random_janus import save_tiny_checkpoint
from benchmarks.trajectories import random_groups
from learner.rank_settings import Place
from learner.shares import TrainingGroup
from policy.checkpoint.loading import load_policy

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # also where a GPU is

RankFactory = Callable[..., Any]

ADVANTAGES = ((1.0, -0.5, None, 0.3), (0.8, -1.2, 0.0, 0.4))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("learner") / "checkpoint")


@pytest.fixture(scope="session")
def batch(checkpoint: Path) -> list[TrainingGroup]:
    """Seven trajectories of unequal lengths, one with an empty CoT, and a failed one."""
    groups = random_groups(load_policy(checkpoint), [[3, 5, 4, 0], [1, 2, 9, 6]])
    return [TrainingGroup(g, a) for g, a in zip(groups, ADVANTAGES, strict=True)]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def make_rank(checkpoint: Path, free_port: int) -> Iterator[RankFactory]:
    """``make_rank(algorithm={...}, guidance_scale=..., dtype=..., **learner_keys)``."""
    from learner.rank import LearnerRank

    ranks = []

    def make(algorithm: dict[str, Any] | None = None, **others: Any) -> LearnerRank:
        settings = learner_settings(checkpoint, algorithm, **{"learning_rate": 1e-2, **others})
        ranks.append(LearnerRank(settings, Place(0, 1, "127.0.0.1", free_port)))
        return ranks[-1]

    yield make
    for rank in ranks:
        rank.close()
