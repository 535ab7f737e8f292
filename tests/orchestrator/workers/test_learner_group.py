"""The learner group on a real Ray cluster."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from learner_settings import learner_settings

from benchmarks.small_models.random_janus import save_tiny_checkpoint
from benchmarks.trajectories import TINY_SPECIAL, random_groups
from learner.config import AlgorithmConfig, LearnerConfig
from learner.rank_settings import Place
from learner.shares import TrainingGroup, split_over_ranks
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import load_config
from orchestrator.workers.failures import WorkerDied, WorkerFailed, WorkerLate
from orchestrator.workers.learner_group import LearnerGroup
from policy.checkpoint.loading import load_policy, read_config
from policy.errors import UserError
from policy.probe import probe_logprobs
from policy.runtime import FAST_COPIES
from policy.weights import WeightBuckets, load_into

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"
ADVANTAGES = ((1.0, -0.5, None, 0.3), (0.8, -1.2, 0.0, 0.4))

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("learner") / "checkpoint")


def learner_group(checkpoint: Path, **learner: Any) -> LearnerGroup:
    """Two ranks of a run of 10 steps that starts from the checkpoint."""
    parts = {
        "learner": LearnerConfig(ranks=2, learning_rate=1e-2, **learner),
        "algorithm": AlgorithmConfig(),
        "steps": 10,
    }
    config = load_config(SHAPES, []).model_copy(update=parts)
    return LearnerGroup(
        config, Inputs(checkpoint, ModelSize.of(read_config(checkpoint)), None, [], {}, [])
    )


def updated_by_one_rank(checkpoint: Path, batch: list[TrainingGroup]) -> dict[str, float]:
    """The metrics row of the same update by one rank, in this process."""
    from learner.rank import LearnerRank

    settings = learner_settings(checkpoint, learning_rate=1e-2, micro_batch_size=8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    rank = LearnerRank(settings, Place(0, 1, "127.0.0.1", port))
    try:
        return rank.update(split_over_ranks(batch, 1)[0])
    finally:
        rank.close()


@pytest.mark.slow
def test_a_group_trains_publishes_resumes_and_fails_by_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One group's life, in one test because its start costs more than all the rest.

    Groups in the object store train as local ones on one rank; a damaged checkpoint is refused
    and the group goes on; a late rank is named, and then a killed one; published weights outlive
    the learner.
    """
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    groups = random_groups(load_policy(checkpoint), [[3, 5, 4, 0], [1, 2, 9, 6]])
    batch = [TrainingGroup(g, a) for g, a in zip(groups, ADVANTAGES, strict=True)]
    group = learner_group(checkpoint, micro_batch_size=3, cpus_per_rank=0.5, timeout_s=60)
    try:
        group.wait_ready()
        row = group.update([TrainingGroup(ray.put(item.group), item.advantages) for item in batch])
        expected = updated_by_one_rank(checkpoint, batch)
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
        with pytest.raises(ValueError, match="no trajectory"):
            group.update([TrainingGroup(batch[0].group, (None,) * 4)])

        group.save(tmp_path)
        with pytest.raises(UserError, match="nowhere"):
            group.load(tmp_path / "nowhere")
        group.load(tmp_path)
        assert group.weight_version == 1

        environment = group.workers[0].__ray_call__.remote(lambda _: dict(os.environ))
        assert FAST_COPIES.items() <= ray.get(environment).items()
        published = group.publish()
        receipt, other = group.receipts()
        assert receipt.weight_version == other.weight_version == published.weight_version == 1
        assert (len(receipt.checksum), other.checksum) == (32, "")

        group.workers[1].__ray_call__.remote(lambda self: time.sleep(600))
        group.config = group.config.model_copy(update={"timeout_s": 8.0})
        silent = r"^learner rank 1 did not answer within 8 s: process \d+ on "
        with pytest.raises(WorkerLate, match=silent):
            group.publish()  # to which each rank answers without the other
        group.config = group.config.model_copy(update={"timeout_s": 60.0})
        ray.kill(group.workers[1])
        with pytest.raises(WorkerDied, match=r"^learner rank 1 died: "):
            group.update(batch)
    finally:
        group.close()

    slots, *parcels = ray.get(list(published.refs), timeout=10)
    buckets = [bucket for parcel in parcels for bucket in parcel]
    fresh = load_policy(checkpoint)
    digest = load_into(fresh.trained_parameters(), WeightBuckets(slots, buckets))
    assert digest == receipt.checksum
    probe = probe_logprobs(fresh, TINY_SPECIAL)
    assert np.array_equal(receipt.probe_logprobs, probe)


def test_a_rank_without_a_place_says_what_it_asks_for(checkpoint: Path) -> None:
    """Ranks that cannot be placed on the cluster do not hang the start: 2 s, not 600."""
    group = learner_group(checkpoint, cpus_per_rank=10_000, start_timeout_s=2)
    with pytest.raises(
        WorkerFailed,
        match=r"^learner rank 0, learner rank 1 did not answer within 2 s:"
        r" it was given no place by Ray within 2 s:"
        r" it asks for 10000 CPUs and 0 GPUs, of which [\d.]+ and [\d.]+ are free$",
    ):
        group.wait_ready()
    group.close()


def test_a_rank_that_dies_while_it_starts_is_named(checkpoint: Path) -> None:
    """Rank 0 needs rank 1's address to choose where to meet, so that it fails too; the death of
    rank 1 is what is said."""
    group = learner_group(checkpoint, cpus_per_rank=0.5)
    ray.kill(group.workers[1])
    with pytest.raises(WorkerDied, match=r"^learner rank 1 died: "):
        group.wait_ready()
    group.close()
