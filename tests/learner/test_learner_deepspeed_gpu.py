"""A learner rank with DeepSpeed on a GPU, as far as a CPU can show it: no operation mixes devices.

DeepSpeed is told that its accelerator is the pretended GPU; the collectives of the one rank run on
the CPU. ZeRO 3 is left out: what it does to parameters behind autograd cannot be pretended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from learner_settings import learner_settings
from pretend_gpu import GPU, pretend_gpu
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.published import published_weights
from learner import rank as rank_module
from learner.config import LearnerConfig
from learner.distributed import join
from learner.rank_settings import Place
from learner.shares import GroupSlice, split_over_ranks
from policy.weights import unpack


def trained(
    checkpoint: Path, share: list[GroupSlice], device: str, port: int, learner: dict[str, Any]
) -> dict[str, float]:
    """The metrics of an update, of a stale one after it, the probe, and the sum of what is
    published."""
    settings = learner_settings(
        checkpoint, learning_rate=1e-3, micro_batch_size=4, device=device,
        gpus_per_rank=float(device == "cuda"), **learner,
    )  # fmt: skip
    torch.manual_seed(0)
    rank = rank_module.LearnerRank(settings, Place(0, 1, "127.0.0.1", port))
    first, second = rank.update(share), rank.update(share)
    receipt, buckets = published_weights(rank)
    parameters = list(rank._model._policy.parameters())
    rank.close()
    assert {parameter.device.type for parameter in parameters} == {device}
    return (
        first
        | {f"second/{key}": value for key, value in second.items()}
        | {"probe": float(receipt.probe_logprobs.mean())}
        | {"weights": sum(float(tensor.double().abs().sum()) for _, tensor in unpack(buckets))}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [{}, {"zero_stage": 2}, {"zero_stage": 1, "dtype": "bfloat16", "lora": {"rank": 2}}],
    ids=str,
)
def test_a_rank_leaves_the_gpu_as_it_leaves_the_cpu(
    checkpoint: Path, batch, free_port: int, monkeypatch: pytest.MonkeyPatch, learner
) -> None:
    """Two updates by ``DeepSpeedPasses``, their metrics and the published weights, to rounding."""
    share = split_over_ranks(batch, 1)[0]
    with sdpa_kernel(SDPBackend.MATH):  # the pretended GPU knows no other
        expected = trained(checkpoint, share, "cpu", free_port, learner)

    def joined(place: Place, config: LearnerConfig) -> torch.device:
        join(place, config.model_copy(update={"device": "cpu"}))
        return GPU

    accelerator = type(deepspeed.accelerator.get_accelerator())
    monkeypatch.setattr(accelerator, "device_name", lambda self, index=None: str(GPU))
    monkeypatch.setattr(accelerator, "current_device_name", lambda self: str(GPU))
    monkeypatch.setattr(rank_module, "join", joined)
    with pretend_gpu():
        found = trained(checkpoint, share, "cuda", free_port, learner)
    tolerance = 0.1 if "dtype" in learner else 1e-4
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance / 100, nan_ok=True)
