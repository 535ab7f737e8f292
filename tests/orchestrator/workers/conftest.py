"""Rollout pools whose workers load no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from orchestrator.settings.inputs import Inputs
from orchestrator.settings.run_config import load_config
from orchestrator.workers import rollout_pool as pools_module
from orchestrator.workers.rollout_pool import RolloutPool
from tests.remote_parts import Worker

ROOT = Path(__file__).parents[3]


@pytest.fixture
def worker() -> Iterator[Callable[[], Any]]:
    """Starts workers that end with the test."""
    started: list[Any] = []

    def start(*_: Any, **__: Any) -> Any:
        started.append(Worker.remote())
        return started[-1]

    yield start
    for actor in started:
        ray.kill(actor)


@pytest.fixture
def start_rollout(
    worker: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RolloutPool]:
    """Starts a pool of two such workers that sleep while the learner works."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(pools_module, "start_rollout_worker", worker)

    def start(*more: str) -> RolloutPool:
        settings = ["rollout.workers=2", "rollout.sleep_while_learning=true", *more]
        config = load_config(ROOT / "configs" / "shapes.yaml", settings)
        inputs = cast(Inputs, SimpleNamespace(model_path=Path("none"), instruction=None))
        return RolloutPool(config, inputs)

    return start
