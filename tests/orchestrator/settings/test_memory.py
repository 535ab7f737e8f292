"""The memory model against memory measured on the tiny model."""

from __future__ import annotations

import gc
import math
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_settings import learner_settings

from benchmarks.small_models.random_janus import (
    PROMPTS,
    save_tiny_checkpoint,
    tiny_encoder,
    tiny_policy,
)
from benchmarks.trajectories import TINY_SPECIAL, random_groups
from learner.config import BUCKET_ELEMENTS, AlgorithmConfig, LearnerConfig, LoraConfig
from learner.group_weights import token_vectors
from learner.logprob_module import LogprobModule, entropy_kernel
from learner.rank_settings import Place
from learner.shares import TrainingGroup, split_over_ranks
from orchestrator.settings.machine import check_machine
from orchestrator.settings.memory import (
    CUDA_CONTEXT,
    Lengths,
    learner_memory,
    reward_memory,
    rollout_memory,
    saved_activations,
)
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.object_store import object_store_bytes
from orchestrator.settings.run_config import load_config
from policy.checkpoint.loading import load_policy
from policy.checkpoint.public_models import public_config
from policy.encoding import unconditional_twin
from policy.errors import UserError
from policy.sequences import collate
from rewards.config import RewardConfig
from rollout.config import RolloutConfig
from rollout.decoding import RowDecoder

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("memory") / "checkpoint")


@pytest.fixture(scope="module")
def size() -> ModelSize:
    return ModelSize.of(tiny_policy().model.config)


def test_parameters_are_counted_without_weights(size: ModelSize) -> None:
    """Trained and frozen parameters are those of the real model."""
    policy = tiny_policy()
    assert size.trained == sum(p.numel() for _, p in policy.trained_parameters())
    assert size.trained + size.frozen == sum(p.numel() for p in policy.parameters())


# Learner


def live_storages() -> dict[int, int]:
    """Bytes of every CPU storage that a tensor of this process holds, by address."""
    gc.collect()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gc visits deprecated lazy modules too
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [
        dict(zero_stage=0, dtype="float32"),
        dict(zero_stage=2, dtype="float32"),
        dict(zero_stage=2, dtype="bfloat16"),
        dict(zero_stage=3, dtype="bfloat16"),
        dict(zero_stage=0, dtype="float32", lora=dict(rank=64)),
        dict(zero_stage=2, dtype="bfloat16", lora=dict(rank=64)),
    ],
    ids=lambda s: f"zero{s['zero_stage']}-{s['dtype']}" + ("-lora" if "lora" in s else ""),
)
def test_a_rank_holds_what_the_plan_says(
    checkpoint: Path, size: ModelSize, learner: dict[str, Any]
) -> None:
    """Distinct storages after the last backward pass of a step, before the optimizer's: weights,
    reference, master weights, AdamW's averages and gradients, to less than one byte a parameter.

    Every one of them is two bytes or more a parameter: none is missing and none counted twice.
    """
    from learner.rank import LearnerRank

    if "lora" in learner:
        pytest.importorskip("peft")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = learner_settings(checkpoint, learning_rate=1e-3, micro_batch_size=2, **learner)
    config = settings.learner
    groups = random_groups(load_policy(checkpoint), [[2, 3]])
    share = split_over_ranks([TrainingGroup(g, (1.0, -1.0)) for g in groups], 1)[0]
    before = live_storages()
    rank = LearnerRank(settings, Place(0, 1, "127.0.0.1", port))
    measured = 0
    real_step = rank._model.step

    def step(learning_rate: float) -> float:
        nonlocal measured
        now = live_storages()
        measured = sum(bytes_ for address, bytes_ in now.items() if address not in before)
        return real_step(learning_rate)

    rank._model.step = step  # type: ignore[method-assign]
    try:
        rank.update(share)
        rank.update(share)  # the optimizer has its averages from the first on
    finally:
        rank._model.step = real_step  # type: ignore[method-assign]
        rank.close()

    memory = learner_memory(size, config, Lengths(10, 3, 12), settings.dtype, guided=False)
    planned = sum(memory.held.values()) + memory.working["gradients"]
    if config.zero_stage == 3:
        planned += BUCKET_ELEMENTS * (2 if settings.dtype == "bfloat16" else 4)
    parameters = (
        size.trained
        if config.lora is None
        else size.lora(config.lora.rank, config.lora.target_modules)
    )
    assert abs(measured - planned) < parameters, (measured, planned, memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_activations(size: ModelSize, dtype: torch.dtype) -> None:
    """Distinct storages that autograd saves in the scoring pass, parameters aside: within 25%."""
    policy = tiny_policy().to(dtype)
    # Of four groups: the plan counts on nothing that trajectories share.
    groups = random_groups(tiny_policy(), [[6], [6], [6], [6]], prompt_lengths=(7, 7))
    trajectories = [group.trajectories[0] for group in groups]
    batch = collate(trajectories, TINY_SPECIAL)
    own = {t.untyped_storage().data_ptr() for t in (*policy.parameters(), *policy.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in own:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        LogprobModule(policy)(batch, entropy_kernel, 1.0, None)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    first = trajectories[0]
    lengths = Lengths(len(first.cot_prompt_ids), 6, len(first.image_prompt_ids))
    b = torch.empty((), dtype=dtype).element_size()
    assert saved_activations(size, lengths, 4, b, guided=False) == pytest.approx(measured, rel=0.25)


def test_without_a_kl_term_no_reference_is_planned(size: ModelSize) -> None:
    """``algorithm.kl_beta: 0`` keeps none, so the plan holds none: all else stays."""
    lengths = Lengths(10, 3, 12)
    compared = learner_memory(size, LearnerConfig(), lengths, "float32", guided=False)
    alone = learner_memory(size, LearnerConfig(), lengths, "float32", guided=False, compares=False)
    assert compared.held == alone.held | {"reference": size.trained * 4}


@pytest.mark.parametrize(
    ("method", "device", "expected"),
    [("critical", "cpu", 32 * 32 * 4), ("similarity", "cpu", 32 * 8 * 4), ("critical", "cuda", 0)],
)
def test_a_method_s_table_is_planned_and_is_as_large(
    size: ModelSize, method: str, device: str, expected: int
) -> None:
    """32 codes with 32 hidden or 8 codebook numbers of 4 bytes, on the host: beside a GPU it is no
    GPU memory. It is what the learner keeps."""
    needs = AlgorithmConfig(method=method).objective().method.needs
    config = LearnerConfig(device=device, gpus_per_rank=float(device == "cuda"))
    lengths = Lengths(10, 3, 12)
    memory = learner_memory(size, config, lengths, "float32", guided=False, needs=needs)
    plain = learner_memory(size, config, lengths, "float32", guided=False)
    assert memory.total - plain.total == expected
    kept = token_vectors(tiny_policy(), needs)
    assert kept is not None
    assert (memory.host | memory.held)["vectors of image tokens"] == kept.nbytes


def test_the_table_of_critical_at_7b() -> None:
    """16,384 codes x 4,096 numbers x 4 bytes are 256 MiB a rank."""
    known = public_config("deepseek-ai/Janus-Pro-7B")
    assert known is not None
    assert ModelSize.of(known).token_vectors({"aligned_embedding"}) == 256 * 2**20


def test_shares_of_ranks_and_offloading(size: ModelSize) -> None:
    """What ZeRO divides by the ranks, and what goes to the host: literal bytes a parameter."""
    lengths = Lengths(10, 3, 12)

    def per_parameter(**settings: Any) -> dict[str, float]:
        config = LearnerConfig(ranks=4, **settings)
        memory = learner_memory(size, config, lengths, "bfloat16", guided=False)
        parts = memory.held | {"gradients": memory.working["gradients"]} | {
            f"host {name}": amount for name, amount in memory.host.items()
        }  # fmt: skip
        return {name: round(amount / size.trained, 2) for name, amount in parts.items()}

    two = per_parameter(zero_stage=2)
    assert (two["reference"], two["master weights"], two["AdamW"], two["gradients"]) == (2, 1, 2, 1)
    left = per_parameter(zero_stage=2, min_ranks=2)  # two of the four may have to do
    assert (left["master weights"], left["AdamW"], left["gradients"]) == (2, 4, 2)
    assert per_parameter(zero_stage=1)["gradients"] == 5
    away = per_parameter(zero_stage=2, offload_optimizer=True)
    assert "AdamW" not in away
    assert (away["host AdamW"], away["host master weights"], away["gradients"]) == (2, 1, 0)
    away = per_parameter(zero_stage=3, offload_optimizer=True, offload_parameters=True)
    assert "weights" not in away


# Rollout


@pytest.mark.parametrize("guided", [False, True])
def test_the_kv_cache_is_exact(size: ModelSize, guided: bool) -> None:
    """Bytes of the decoder's preallocated keys and values in the image phase."""
    policy, encoder = tiny_policy(), tiny_encoder()
    prompts = [encoder.image_prompt_ids(prompt, "red circle") for prompt in PROMPTS]
    if guided:
        prompts += [unconditional_twin(prompt, encoder.special) for prompt in prompts]
    decoder = RowDecoder(policy, prompts, policy.num_image_tokens - 1)
    decoder.prefill()
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in decoder._cache.rows)
    config = RolloutConfig(guidance_scale=1.0, max_cot_tokens=2, batch_size=len(PROMPTS))
    lengths = Lengths(4, 2, max(map(len, prompts)))
    memory = rollout_memory(size, config, lengths, "float32", guided, gpu_bytes=0)
    assert memory.working["KV cache"] == measured
    assert memory.held["weights"] == sum(p.nbytes for p in policy.parameters())


def test_a_long_cot_can_need_the_larger_cache(size: ModelSize) -> None:
    """The phases never coincide: the cache is that of the larger, not their sum."""
    config = RolloutConfig(guidance_scale=1.0, max_cot_tokens=500, batch_size=3)
    memory = rollout_memory(
        size, config, Lengths(10, 500, 20), "float32", guided=False, gpu_bytes=0
    )
    per_position = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head size, float32
    assert memory.working["KV cache"] == 3 * (10 + 500 - 1) * per_position


# Rewards, object store


def test_rewards_known_and_not(size: ModelSize) -> None:
    """A known model by its parameters and type, if there is such a type; another by the share of
    the GPU it asks for."""
    orm = RewardConfig(name="orm", factory="rewards.models.orm:OrmReward", gpus_per_worker=0.5)
    assert reward_memory(orm, 80).held == {
        "weights": 2 * 8_030_000_000,
        "CUDA context": CUDA_CONTEXT,
    }
    wide = orm.model_copy(update={"options": {"dtype": "float32"}})
    assert reward_memory(wide, 80).held["weights"] == 4 * 8_030_000_000
    half = orm.model_copy(update={"options": {"dtype": "float16"}})
    assert reward_memory(half, 80).held["weights"] == 2 * 8_030_000_000
    wrong = orm.model_copy(update={"options": {"dtype": "int4"}})
    with pytest.raises(UserError, match=r"^reward 'orm': dtype: 'int4' is not one of float32, "):
        reward_memory(wrong, 80)
    own = RewardConfig(name="own", factory="mine:Mine", gpus_per_worker=0.25)
    assert reward_memory(own, 80).held == {"its share of the GPU": 20}
    assert reward_memory(own.model_copy(update={"gpus_per_worker": 0}), 80).held == {}


def test_object_store(size: ModelSize) -> None:
    """Three versions of the trained part in the policy's type, whatever the checkpoint's, and
    16 x 16 pixels of three colours; samples of an evaluation count if there is one."""
    settings = ["prompts_per_step=4", "rollout.group_size=8", "evaluation.prompts=50"]
    config = load_config(SHAPES, settings)
    one = 3 * 16 * 16 + 64 * 1024
    assert object_store_bytes(size, config) == 3 * 4 * size.trained + 50 * 4 * one
    config = load_config(SHAPES, [*settings, "model.dtype=bfloat16", "learner.zero_stage=1"])
    assert object_store_bytes(size, config) == 3 * 2 * size.trained + 50 * 4 * one
    config = load_config(SHAPES, [*settings, "data.evaluation={}"])
    assert object_store_bytes(size, config) == 3 * 4 * size.trained + 32 * one


def test_an_adapter_costs_the_worker_and_spares_the_object_store() -> None:
    """One layer with 8 hidden and 20 inner channels, 2 heads of 4 and one key-value head. q_proj is
    8 x 8, v_proj 8 x 4, down_proj 20 x 8: at rank 2 the factors have 2 (16 + 12 + 28) numbers."""
    lora = LoraConfig(rank=2, target_modules=("q_proj", "v_proj", "down_proj"))
    size = replace(
        ModelSize.of(tiny_policy().model.config),
        hidden=8, inner=20, layers=1, head_size=4, heads=2, kv_heads=1,
    )  # fmt: skip
    assert size.lora(2, lora.target_modules) == 112
    config, lengths = RolloutConfig(guidance_scale=1.0, max_cot_tokens=2), Lengths(4, 2, 6)
    memory = rollout_memory(size, config, lengths, "bfloat16", False, gpu_bytes=0, lora=lora)
    assert memory.held["base of the adapter"] == 2 * (64 + 32 + 160)
    alone = rollout_memory(size, config, lengths, "bfloat16", False, gpu_bytes=0)
    assert memory.total - alone.total == 2 * (64 + 32 + 160)

    run = load_config(SHAPES, ["learner.lora.rank=2"])
    full = load_config(SHAPES, [])
    shipped = run.learner.lora
    assert shipped is not None
    assert object_store_bytes(size, full) - object_store_bytes(size, run) == 3 * 4 * (
        size.trained - size.lora(2, shipped.target_modules)
    )


def test_object_store_of_overlapped_steps(size: ModelSize) -> None:
    """At staleness 2 the trajectories of three steps are there, and those of an evaluation with
    them."""
    settings = ["prompts_per_step=4", "rollout.group_size=8", "evaluation.prompts=50"]
    config = load_config(SHAPES, [*settings, "max_staleness=2"])
    one = 3 * 16 * 16 + 64 * 1024
    assert object_store_bytes(size, config) == 3 * 4 * size.trained + (3 * 32 + 50 * 4) * one


def test_preflight_counts_weights_in_the_type_that_is_trained(tmp_path: Path) -> None:
    """A checkpoint in bfloat16 trained in float32 fills twice what its file has, three times."""
    model = load_policy(SHAPES.parent.parent / "shapes" / "checkpoint", torch.bfloat16).model
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    settings = [f"model.path={tmp_path}", "evaluation.prompts=400"]
    size = ModelSize.of(model.config)
    needed = math.ceil(object_store_bytes(size, load_config(SHAPES, settings)) / 2**20)
    enough = load_config(SHAPES, [*settings, f"cluster.object_store_mb={needed}"])
    check_machine(enough, size)
    short = load_config(SHAPES, [*settings, f"cluster.object_store_mb={needed - 1}"])
    with pytest.raises(UserError, match=f"^cluster.object_store_mb: .* set it to {needed} or"):
        check_machine(short, size)
