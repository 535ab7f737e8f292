"""LoRA in one learner rank: what trains, what is published, what the reference is, which files."""

from __future__ import annotations

import gc
from dataclasses import replace

import peft
import pytest
import torch
from original_janus import name_tiny_parts, save_original
from transformers import JanusForConditionalGeneration

from benchmarks.published import published_weights
from benchmarks.small_models.random_janus import save_tiny_checkpoint
from benchmarks.trajectories import TINY_SPECIAL
from learner.adapter import Adapter
from learner.config import LoraConfig
from learner.micro_batches import micro_batch, training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from policy.checkpoint.loading import load_policy
from policy.errors import UserError
from policy.low_rank import Receiver
from policy.probe import probe_logprobs
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import Group
from policy.weights import unpack

LORA = {"rank": 4, "alpha": 6.0, "target_modules": ("q_proj", "o_proj", "up_proj")}
BFLOAT16 = dict(zero_stage=1, dtype="bfloat16")
SETTINGS = [dict(), dict(zero_stage=2), BFLOAT16]


def at(batch, version):
    """The batch as if sampled by the weights of a version, for one rank."""
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


def served(checkpoint, buckets, dtype=torch.float32):
    """A policy, fresh from the checkpoint, that has loaded what was sent."""
    policy = load_policy(checkpoint, dtype)
    Receiver().load(policy.trained_parameters(), buckets)
    return policy


def base_weights(checkpoint, dtype=torch.float32):
    return {n: p.detach() for n, p in load_policy(checkpoint, dtype).trained_parameters()}


def storages_shaped_like(tensor):
    """Addresses of all live tensors of a shape."""
    alive = (item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter))
    return {item.data_ptr() for item in alive if item.shape == tensor.shape}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_before_the_first_update_workers_serve_the_base(make_rank, checkpoint, settings):
    """B = 0: what is sent changes no bit of the checkpoint's weights."""
    rank = make_rank(lora=LORA, **settings)
    dtype = rank._model._policy.dtype
    base = base_weights(checkpoint, dtype)
    policy = served(checkpoint, published_weights(rank)[1], dtype)
    assert all(torch.equal(p, base[name]) for name, p in policy.trained_parameters())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_only_the_factors_are_sent(make_rank, settings):
    """Rank x (inputs + outputs) numbers for each adapted layer, in the policy's type, and the
    scale."""
    rank = make_rank(lora=LORA, **settings)
    sent = dict(unpack(published_weights(rank)[1]))
    assert float(sent.pop("lora_scale")) == LORA["alpha"] / LORA["rank"]
    policy = rank._model._policy
    layers = {name.split(".lora_")[0] for name in sent}
    assert len(layers) == 2 * 3  # layers x kinds
    base = {
        n.replace(".base_layer", ""): p.shape
        for n, p in policy.model.named_parameters()
        if ".base_layer" in n
    }
    assert sum(t.numel() for t in sent.values()) == sum(
        LORA["rank"] * sum(base[name]) for name in layers
    )
    assert {tensor.dtype for tensor in sent.values()} == {policy.dtype}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_workers_merge_and_answer_the_probe_alike(make_rank, checkpoint, batch, settings):
    """Base + alpha / rank * B A for the adapted layers, the base's own bits for all others.

    A policy that knows nothing of adapters loads them and answers the probe as the learner does,
    also in bfloat16, where merged weights are not the adapter's arithmetic. Nothing live changes.
    """
    rank = make_rank(lora=LORA, **settings)
    for version in range(2):
        rank.update(at(batch, version))
    model = rank._model
    before = {n: p.detach().clone() for n, p in model._policy.model.named_parameters()}
    receipt, buckets = published_weights(rank)
    after = dict(model._policy.model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)

    dtype = model._policy.dtype
    fresh, base = served(checkpoint, buckets, dtype), base_weights(checkpoint, dtype)
    weights = dict(fresh.trained_parameters())
    factors = {n.removeprefix("base_model.model."): t.double() for n, t in model.adapter.tensors()}
    adapted = {name.split(".lora_")[0] for name in factors}
    assert len(adapted) == 2 * 3  # layers x kinds
    for name, tensor in base.items():
        stem = name.removesuffix(".weight")
        if stem not in adapted:
            assert torch.equal(weights[name], tensor), name
            continue
        up, down = (factors[f"{stem}.lora_{x}.weight"] for x in "BA")
        expected = tensor.double() + LORA["alpha"] / LORA["rank"] * up @ down
        assert not torch.equal(weights[name], tensor), name
        tolerance = 1e-6 if tensor.dtype == torch.float32 else 2**-8
        assert torch.allclose(weights[name].double(), expected, rtol=tolerance, atol=1e-6), name

    expected = probe_logprobs(fresh, TINY_SPECIAL)
    assert receipt.probe_logprobs == pytest.approx(expected, abs=1e-5)


def test_the_reference_is_the_base_with_the_adapter_off(make_rank, checkpoint, batch):
    """After updates the reference's log-probs are the checkpoint's, and KL is measured to them."""
    rank = make_rank(lora=LORA)
    rows = [rank.update(at(batch, version)) for version in range(2)]
    assert rows[0]["kl/mean"] == 0.0
    assert rows[1]["kl/mean"] > 0.0
    tokens = micro_batch(
        training_trajectories(at(batch, 2)), TINY_SPECIAL, 2, False, torch.device("cpu")
    ).tokens
    base = load_policy(checkpoint)
    with torch.no_grad():
        expected_BT = trajectory_logprobs(base, tokens, 1.0, None).logprob_BT
    assert torch.allclose(rank._model.reference_logprobs(tokens), expected_BT, atol=1e-5)
    trained_BT, _ = rank._model.logprobs(tokens, with_entropy=False)
    assert not torch.allclose(trained_BT, expected_BT, atol=1e-2)


def test_there_is_one_copy_of_the_base_and_only_the_adapter_trains(make_rank, checkpoint, batch):
    """Text head and embeddings, alike in shape, lie in memory once, where full training has them
    twice; gradients and AdamW's averages exist for the adapter's elements alone."""
    head = load_policy(checkpoint).model.lm_head.weight
    copies = {}
    for lora in (None, LORA):
        gc.collect()
        before = storages_shaped_like(head)
        rank = make_rank(lora=lora)
        gc.collect()
        copies[lora is not None] = len(storages_shaped_like(head) - before)
    assert copies == {False: 4, True: 2}

    policy, optimizer = rank._model._policy, rank._model._engine.optimizer
    trained = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name and "language_model" in name for name in trained)
    rank.update(at(batch, 0))
    elements = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) == elements


def test_the_first_step_moves_b_alone(make_rank, batch):
    """dL/dA = scale B' dL/dW is 0 where B is, while dL/dB = scale dL/dW A' is not."""
    rank = make_rank(dict(kl_beta=0.0), lora=LORA)
    first = {n: t.clone() for n, t in rank._model.adapter.tensors()}
    rank.update(at(batch, 0))
    for name, tensor in rank._model.adapter.tensors():
        assert torch.equal(tensor, first[name]) == ("lora_A" in name), name


def test_the_seed_alone_decides_where_the_adapter_starts(make_rank):
    """Two ranks begin equal, whatever random numbers were drawn before."""
    torch.manual_seed(1)
    one = dict(make_rank(lora=LORA)._model.adapter.tensors())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = dict(make_rank(lora=LORA)._model.adapter.tensors())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*SETTINGS, dict(zero_stage=3)], ids=str)
def test_resumed_training_is_bitwise_the_uninterrupted_one(make_rank, batch, tmp_path, settings):
    """Two updates, checkpoint, one more: row and weights equal those after a restart."""
    rank = make_rank(lora=LORA, **settings)
    for version in range(2):
        rank.update(at(batch, version))
    rank.save(tmp_path)
    row = rank.update(at(batch, 2))
    resumed = make_rank(lora=LORA, **settings)
    resumed.load(tmp_path)
    assert resumed.update(at(batch, 2)) == row
    assert published_weights(resumed)[0] == published_weights(rank)[0]


def test_a_checkpoint_of_other_lora_settings_is_refused(make_rank, tmp_path):
    """Other rank, or none: the message names both."""
    make_rank(lora=LORA).save(tmp_path)
    with pytest.raises(UserError, match=r"with lora rank=4 .*, not rank=8 "):
        make_rank(lora=LORA | {"rank": 8}).load(tmp_path)
    with pytest.raises(UserError, match=r"with lora rank=4 .*, not none"):
        make_rank().load(tmp_path)


def test_the_checkpoint_holds_the_merged_model_and_an_adapter_for_peft(
    make_rank, checkpoint, batch, tmp_path
):
    """model/ is what workers serve; peft and transformers alone put adapter/ on the base and
    compute its logits."""
    rank = make_rank(lora=LORA)
    for version in range(2):
        rank.update(at(batch, version))
    rank.save(tmp_path)
    merged = load_policy(tmp_path / "model")
    weights = dict(served(checkpoint, published_weights(rank)[1]).trained_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in merged.trained_parameters())
    manifest = (tmp_path / "manifest.json").read_text()
    assert "adapter/adapter_model.safetensors" in manifest
    assert "adapter/adapter_config.json" in manifest

    plain = JanusForConditionalGeneration.from_pretrained(checkpoint).eval()
    ids = torch.tensor([[1, 8, 9, 10, 11]])
    before = plain(input_ids=ids).logits
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    logits = adapted(input_ids=ids).logits
    assert torch.allclose(logits, merged.model(input_ids=ids).logits, atol=1e-5)
    assert not torch.allclose(logits, before, atol=1e-2)


@pytest.mark.parametrize("original", [False, True], ids=["transformers", "original"])
@pytest.mark.parametrize("on_the_hub", [False, True], ids=["folder", "hub"])
def test_the_adapter_names_its_base_as_others_can_find_it(
    tmp_path, monkeypatch, original, on_the_hub
):
    """A folder by its path, one of the Hub's cache by repository and commit; a base that peft
    cannot load is spoken of."""
    cached = tmp_path / "models--someone--Janus-tiny" / "snapshots" / "0123abcd"
    base = cached if on_the_hub else tmp_path / "base"
    name_tiny_parts(monkeypatch)
    if original:
        save_original(base, "bin")
    else:
        save_tiny_checkpoint(base)
    adapter = Adapter(load_policy(base), LoraConfig(**LORA), base, seed=0)
    adapter.write(tmp_path / "adapter", {"x": torch.ones(1)})
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    found = config.base_model_name_or_path, config.revision
    expected = ("someone/Janus-tiny", "0123abcd") if on_the_hub else (str(base), None)
    assert found == expected
    note = tmp_path / "adapter" / "README.md"
    assert note.is_file() == original
    if original:
        assert f"{expected[0]}, is in the original format" in note.read_text()
        assert note.read_text().count("\n") == 1
