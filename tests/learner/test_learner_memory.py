"""Settings that trade time for memory change where numbers lie, never the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.published import published_weights
from learner.config import LearnerConfig
from learner.distributed import deepspeed_settings
from learner.micro_batches import training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from policy.types import Group
from policy.weights import unpack


def at(batch, version):
    renewed = [
        TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for item in batch
    ]
    return split_over_ranks(renewed, 1)[0]


def weights(rank):
    return {name: tensor.clone() for name, tensor in unpack(published_weights(rank)[1])}


def first_layer(rank):
    return rank._model._policy.model.model.language_model.layers[0]


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_checkpointed_activations_give_the_same_gradient(make_rank, batch, lora):
    """Row and weights after an update are equal to the last bit, while every decoder layer runs
    twice: in the one pass of both phases, and once more for its backward pass. Nothing below a
    layer is in training mode, so that no dropout could come on."""
    results, calls = [], []
    for checkpointing in (False, True):
        rank = make_rank(lora=lora, gradient_checkpointing=checkpointing)
        count = []
        first_layer(rank).mlp.register_forward_pre_hook(
            lambda module, inputs, count=count: count.append(torch.is_grad_enabled())
        )
        row = rank.update(at(batch, 0))
        calls.append(sum(count))  # without the passes that need no gradient
        results.append((row, weights(rank)))
        assert not any(part.training for part in first_layer(rank).children())
    (row, plain), (other_row, checkpointed) = results
    assert row == other_row
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert calls == [1, 2]


def test_checkpointed_activations_are_not_kept(make_rank, batch):
    """What autograd saves of a forward pass falls to less than half, with two layers."""
    kept = []
    for checkpointing in (False, True):
        rank = make_rank(gradient_checkpointing=checkpointing)
        tokens = rank._updater.micro_batches(training_trajectories(at(batch, 0)), 0)[0].tokens
        parameters = {p.data_ptr() for p in rank._model._policy.parameters()}
        saved = {}

        def keep(tensor, parameters=parameters, saved=saved):
            if tensor.data_ptr() not in parameters:
                saved[tensor.data_ptr()] = tensor  # held, so that no address comes twice
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            rank._model.logprobs(tokens, with_entropy=False)
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in saved.values()))
    assert kept[1] < kept[0] / 2


OFFLOADS = {
    "optimizer, ZeRO 1": dict(zero_stage=1, offload_optimizer=True),
    "optimizer, ZeRO 2": dict(zero_stage=2, offload_optimizer=True),
    "both, ZeRO 3": dict(zero_stage=3, offload_optimizer=True, offload_parameters=True),
    "both, ZeRO 3, LoRA": dict(
        zero_stage=3, offload_optimizer=True, offload_parameters=True, lora={"rank": 4}
    ),
    "bfloat16": dict(zero_stage=2, offload_optimizer=True, dtype="bfloat16"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLOADS)
def test_offload_trains_to_the_same_weights(make_rank, batch, name):
    """Two updates in several micro-batches, with and without, to the rounding of a fused AdamW."""
    offload = OFFLOADS[name]
    plain = {key: value for key, value in offload.items() if not key.startswith("offload")}
    results = []
    for settings in (offload, plain):
        rank = make_rank(micro_batch_size=3, **settings)
        start = weights(rank)
        rows = [rank.update(at(batch, version)) for version in range(2)]
        results.append((rows, weights(rank)))
    (rows, some), (other_rows, others) = results
    close = 1e-3 if name != "bfloat16" else 5e-2
    for row, other in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other, rel=close, abs=1e-5)
    apart = sum((some[n].double() - others[n].double()).square().sum() for n in start)
    gone = sum((others[n].double() - start[n].double()).square().sum() for n in start)
    assert float((apart / gone).sqrt()) < close


def test_resumed_training_with_offload_is_bitwise_the_uninterrupted_one(make_rank, batch, tmp_path):
    """The optimizer's state comes back to where it was."""
    settings = OFFLOADS["optimizer, ZeRO 2"]
    rank = make_rank(**settings)
    rank.update(at(batch, 0))
    rank.save(tmp_path)
    row = rank.update(at(batch, 1))
    resumed = make_rank(**settings)
    resumed.load(tmp_path)
    assert resumed.update(at(batch, 1)) == row
    assert published_weights(resumed)[0] == published_weights(rank)[0]


def test_what_deepspeed_is_told_on_a_gpu():
    """Pinned CPU memory, for the optimizer and for the parameters, each by its own setting."""
    gpu = LearnerConfig(
        device="cuda", gpus_per_rank=1, zero_stage=3, offload_optimizer=True,
        offload_parameters=True,
    )  # fmt: skip
    pinned = {"device": "cpu", "pin_memory": True}
    zero = deepspeed_settings(gpu, "bfloat16", hidden_size=64)["zero_optimization"]
    assert (zero["offload_optimizer"], zero["offload_param"]) == (pinned, pinned)
    fewer = gpu.model_copy(update={"offload_parameters": False})
    assert "offload_param" not in deepspeed_settings(fewer, "bfloat16", 64)["zero_optimization"]
    none = gpu.model_copy(update={"offload_parameters": False, "offload_optimizer": False})
    assert not any(
        "offload" in key for key in deepspeed_settings(none, "bfloat16", 64)["zero_optimization"]
    )
