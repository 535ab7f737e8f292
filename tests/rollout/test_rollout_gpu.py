"""Rollouts on a GPU, as far as a CPU can show it: no operation mixes devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend_gpu import a_gpu

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from policy.types import Group
from policy.weights import pack
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

pytestmark = pytest.mark.gpu
REQUESTS = [GenerationRequest(PROMPTS[0], (1, 2)), GenerationRequest(PROMPTS[1], (3,))]


def rollouts(device: str, dtype: torch.dtype, guidance_scale: float) -> tuple[list[Group], float]:
    """Of an engine that slept, woke and got new weights; with the mean of the probe of these."""
    config = RolloutConfig(
        max_cot_tokens=8, batch_size=2, guidance_scale=guidance_scale, device=device,
        gpus_per_worker=float(device == "cuda"),
    )  # fmt: skip
    engine = TransformersEngine(tiny_policy().to(dtype).to(device), tiny_encoder(), config)
    engine.sleep()
    engine.wake()
    weights = pack(tiny_policy(seed=1).to(dtype).trained_parameters())
    receipt = engine.load_weights(weights, 1)
    assert engine.identity().device.startswith(device)
    return engine.generate(REQUESTS), float(receipt.probe_logprobs.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_trajectories_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, guidance_scale: float
) -> None:
    """Tokens, records and pixels, in more than one batch."""
    expected, probe = rollouts("cpu", dtype, guidance_scale)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with a_gpu():
        groups, probe_there = rollouts("cuda", dtype, guidance_scale)
    assert probe_there == pytest.approx(probe, abs=1e-2 if dtype == torch.bfloat16 else 1e-5)
    for group, other in zip(groups, expected, strict=True):
        for ours, theirs in zip(group.trajectories, other.trajectories, strict=True):
            assert ours.image.shape == theirs.image.shape
            if dtype == torch.bfloat16:
                # Steps of fixed shape round otherwise in 16 bits, and then other tokens are drawn.
                assert np.isfinite(ours.image_logprobs_guided).all()
                continue
            assert np.array_equal(ours.cot_ids, theirs.cot_ids)
            assert np.array_equal(ours.image_ids, theirs.image_ids)
            assert np.allclose(ours.image_logprobs_guided, theirs.image_logprobs_guided, atol=1e-3)
            apart = np.abs(ours.image.astype(int) - theirs.image).max()
            assert apart <= torch.cuda.is_available()  # truncated: rounding may move one level
