"""A rollout worker that goes wrong: a module of its own, for the worker's process imports it."""

from __future__ import annotations

from typing import Any


def go_stale(worker: Any) -> None:
    """Runs in the worker: from now on weights are copied into tensors that nobody reads."""
    engine = worker._serving()
    model = engine._serving._model if hasattr(engine, "_serving") else engine._policy
    detached = [(name, tensor.detach().clone()) for name, tensor in model.trained_parameters()]
    model.trained_parameters = lambda: iter(detached)
