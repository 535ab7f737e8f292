"""The learner group on a real Ray cluster."""

from __future__ import annotations

import numpy as np
import pytest
from learner_settings import learner_settings
from ray.exceptions import (
    ActorUnschedulableError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from policy.errors import UserError
from policy.probe import probe_logprobs
from policy.weights import checksum, load_into

pytestmark = pytest.mark.cluster


@pytest.fixture
def group(ray_cluster, checkpoint):
    from orchestrator.workers.learner_group import LearnerGroup

    learner = dict(ranks=2, learning_rate=1e-2, micro_batch_size=3, cpus_per_rank=0.5, timeout_s=60)
    group = LearnerGroup(learner_settings(checkpoint, **learner))
    group.start()
    yield group
    group.close()


def test_a_group_trains_publishes_resumes_and_dies_by_name(
    group, make_rank, checkpoint, batch, tmp_path
):
    """One group's life, in one test because its start costs more than all the rest.

    Groups in the object store train as local ones on one rank; a damaged checkpoint is refused
    and the group goes on; published weights outlive the learner; a killed rank is named.
    """
    import ray

    from benchmarks.trajectories import TINY_SPECIAL
    from learner.batch import TrainingGroup, split_over_ranks
    from orchestrator.workers.learner_group import LearnerRankDied
    from policy.checkpoint.loading import load_policy

    row = group.update([TrainingGroup(ray.put(item.group), item.advantages) for item in batch])
    single = make_rank(micro_batch_size=8)
    expected = single.update(split_over_ranks(batch, 1)[0])
    assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="no trajectory"):
        group.update([TrainingGroup(batch[0].group, (None,) * 4)])

    group.save(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        group.load(tmp_path / "nowhere")
    group.load(tmp_path)
    assert group.weight_version == 1

    published = group.publish()
    assert published.receipt.weight_version == 1

    ray.kill(group._workers[1])
    # Not the LearnerTimeout of a rank that is waited for to the end.
    with pytest.raises(LearnerRankDied, match=r"^learner rank 1 died"):
        group.update(batch)
    group.close()

    buckets = ray.get(published.buckets, timeout=10)
    assert checksum(buckets) == published.receipt.checksum
    fresh = load_policy(checkpoint)
    load_into(fresh.trained_parameters(), buckets)
    expected = probe_logprobs(fresh, TINY_SPECIAL)
    assert np.array_equal(published.receipt.probe_logprobs, expected)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeEnvSetupError("no such package"), "RuntimeEnvSetupError: Failed to set up runtime"),
        (ActorUnschedulableError("no node"), "ActorUnschedulableError: .* no node"),
        (OutOfMemoryError("node of\n8 GiB"), "OutOfMemoryError: node of 8 GiB$"),
        (ObjectLostError("ab", None, ""), "ObjectLostError: Failed to retrieve object ab"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ray_loses_is_said_in_one_line_with_the_rank(
    monkeypatch: pytest.MonkeyPatch, checkpoint, error, reason
):
    """Neither a rank's own exception nor its death, and no traceback for the user either."""
    from orchestrator.workers import learner_group as module

    def lost(ref):
        raise error

    monkeypatch.setattr(module.ray, "wait", lambda refs, timeout: (refs[-1:], refs[:-1]))
    monkeypatch.setattr(module.ray, "get", lost)
    group = module.LearnerGroup(learner_settings(checkpoint, ranks=2))
    with pytest.raises(module.LearnerFailed, match=f"^learner rank 1 is lost: {reason}") as caught:
        group._wait(["of rank 0", "of rank 1"], 1.0, deadline=0.0)
    assert "\n" not in str(caught.value)


def test_of_several_failures_the_first_is_raised_and_the_others_are_logged(
    monkeypatch: pytest.MonkeyPatch, checkpoint, caplog
):
    """Two ranks raise, the second first: it is named, and what the other said is not lost."""
    from orchestrator.workers import learner_group as module

    def failed(ref):
        raise RayTaskError("update", "", ValueError(ref))

    monkeypatch.setattr(module.ray, "wait", lambda refs, timeout: (refs[-1:], refs[:-1]))
    monkeypatch.setattr(module.ray, "get", failed)
    group = module.LearnerGroup(learner_settings(checkpoint, ranks=2))
    with pytest.raises(module.LearnerFailed, match=r"^learner rank 1 failed: ValueError: second$"):
        group._wait(["first", "second"], 1.0, deadline=0.0)
    assert "learner rank 0 failed: ValueError: first" in caplog.text


def test_a_silent_rank_is_named_within_the_deadline(ray_cluster, checkpoint):
    """Ranks that cannot be placed on the cluster do not hang the start."""
    from orchestrator.workers.learner_group import LearnerGroup, LearnerTimeout

    settings = learner_settings(checkpoint, ranks=2, cpus_per_rank=10_000, start_timeout_s=2)
    group = LearnerGroup(settings)
    with pytest.raises(LearnerTimeout, match=r"^learner rank 0, 1 did not answer within"):
        group.start()
    group.close()
