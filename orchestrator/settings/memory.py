"""Computes the memory that each process needs, from the model's sizes and the run's settings.

Weights, gradients, optimizer states, buffers of DeepSpeed and the KV cache are counted exactly.
Saved activations are those of trajectories that share nothing. Scratch memory is estimated.
``docs/memory.md`` says which figures were compared with measurements. All figures are bytes.

Legend: P = parameters trained, F = parameters frozen, b = bytes of a weight, R = ranks (of the
smallest group that learner.min_ranks allows, because it needs the most memory a rank),
S = positions of a micro-batch's longest forward pass, D = hidden size, I = inner size of the MLP.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from learner.algorithm.kernels import SCRATCH_BYTES
from learner.algorithm.methods.token_method import Need
from learner.config import BUCKET_ELEMENTS, LearnerConfig, LoraConfig
from orchestrator.settings.model_size import WEIGHT_BYTES, ModelSize
from policy.errors import UserError
from rewards.config import RewardConfig
from rewards.models.pretrained import torch_dtype
from rollout.config import RolloutConfig

GIB = 2**30
CUDA_CONTEXT = GIB  # CUDA, cuBLAS and NCCL of a process on a GPU; a round figure
PROCESS_HOST = GIB  # host memory of a process for Python, torch and Ray; a round figure
REWARD_SCRATCH = 2 * GIB  # scratch memory of a reward model; a round figure
_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
_VLLM_BLOCK = {"cuda": 16, "cpu": 128}  # positions in one KV-cache block of vLLM 0.32

# The rewards that come with this project: number of parameters, and their type when loaded.
REWARD_MODELS = {
    "rewards.models.hps:HpsReward": (986_000_000, "float32"),
    "rewards.models.git:GitReward": (395_000_000, "float32"),
    "rewards.models.grounding_dino:GroundingDinoReward": (172_000_000, "float32"),
    "rewards.models.orm:OrmReward": (8_030_000_000, "bfloat16"),
}


@dataclass(frozen=True)
class Memory:
    """The memory that one process needs, by part."""

    held: dict[str, int]  # memory on its device that it needs at all times
    # More memory on its device, which it needs only while the role works.
    working: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)  # host memory, if the device is a GPU
    loading: int = 0  # host memory for reading the model; it is free again after the start

    @property
    def total(self) -> int:
        return sum(self.held.values()) + sum(self.working.values())


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens in the longest trajectory of the plan."""

    cot_prompt: int
    cot: int
    image_prompt: int  # with the CoT in it


def gib_text(amount: int) -> str:
    """A number of bytes as text."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB / 10 else f"{amount / 2**20:.1f} MiB"


def saved_activations(size: ModelSize, lengths: Lengths, rows: int, b: int, guided: bool) -> int:
    """Bytes that autograd keeps for one micro-batch, without LoRA and gradient checkpointing.

    A Llama layer of transformers keeps per position: two norms (input in float32, output), the
    inputs of attention and MLP, queries, keys, values and attention's output, four inner
    activations of the MLP, and the log-sum-exp of attention per head in float32.
    """
    per_position = size.layers * _layer_activations(size, b) + size.hidden * (4 + b)
    return rows * sum(_passes(size, lengths, guided)) * per_position


def learner_memory(
    size: ModelSize,
    config: LearnerConfig,
    lengths: Lengths,
    dtype: str,
    guided: bool,
    compares: bool = True,
    needs: Collection[Need] = (),
) -> Memory:
    """The memory of one learner rank. ``compares`` says whether there is a reference (kl_beta > 0).

    ``needs`` are those of the token method: for some it keeps a table in host memory.

    - weights: (P + F) b. ZeRO-3 divides them among the ranks.
    - reference: P b, because it shares the frozen weights. Under ZeRO-3 it is (P + F) b, whole on
      every rank. With an adapter, or without KL, there is no copy.
    - master weights: 4 P / R from ZeRO-1 on, also for float32 weights. ZeRO-0 has none.
    - AdamW's averages: 8 P, from ZeRO-1 on 8 P / R
    - gradients, summed in float32: 4 P at ZeRO-0, 4 P + 4 P / R at ZeRO-1, 4 P / R from ZeRO-2 on
    """
    b, ranks, stage = WEIGHT_BYTES[dtype], config.fewest_ranks, config.zero_stage
    base = size.trained + size.frozen
    adapter = config.lora and size.lora(config.lora.rank, config.lora.target_modules)
    optimised = adapter or size.trained
    share = 1 if stage == 0 else ranks
    weights = (base + (adapter or 0)) * b // (ranks if stage == 3 else 1)
    optimizer = {
        "master weights": 0 if stage == 0 else 4 * optimised // share,
        "AdamW": 8 * optimised // share,
    }
    gradients = 4 * optimised // (ranks if stage >= 2 else 1)
    if stage == 1:
        gradients += 4 * optimised // ranks
    held = {"weights": weights}
    host: dict[str, int] = {"publishing": 2 * optimised * b}
    if config.offload_parameters:
        host["weights"] = held.pop("weights")
    if adapter is None and compares:
        held["reference"] = (base if stage == 3 else size.trained) * b
    if config.offload_optimizer:
        host |= optimizer | {"gradients": 4 * optimised // ranks}
        gradients = 0 if stage >= 2 else gradients
    else:
        held |= optimizer

    if table := size.token_vectors(needs):
        (host if config.device == "cuda" else held)["vectors of image tokens"] = table

    rows, passes = config.micro_batch_size, _passes(size, lengths, guided)
    longest = rows * max(passes)
    activations = saved_activations(size, lengths, rows, b, guided)
    if config.gradient_checkpointing:
        inputs = rows * sum(passes) * size.hidden * (size.layers * b + 4 + b)
        activations = inputs + longest * _layer_activations(size, b)
    tokens = rows * (lengths.cot + size.image_tokens)
    working = {
        "gradients": gradients,
        "activations": activations,
        "a layer at work": longest * (3 * size.inner + 4 * size.hidden) * b,
        "heads at work": SCRATCH_BYTES[config.device]
        + tokens * max(size.hidden, size.head_inner) * (4 + 2 * b)
        + (0 if adapter else size.text_vocab * size.hidden * b),
        "ZeRO buckets": _buckets(stage, base, optimised, b),
    }
    return _on(config.device, held, working, host, base * b)


def rollout_memory(
    size: ModelSize,
    config: RolloutConfig,
    lengths: Lengths,
    dtype: str,
    guided: bool,
    gpu_bytes: int,
    lora: LoraConfig | None = None,
) -> Memory:
    """The memory of one rollout worker. ``guided`` doubles the rows of the image phase.

    A worker that merges an adapter keeps the base of the adapted layers in host memory.

    The KV cache needs rows x positions x layers x 2 (keys, values) x key-value heads x head size
    x b bytes, for the larger of the two phases. Scratch memory is the largest of reading prompts,
    sampling and decoding images, because these never happen at the same time.

    vLLM always fills the memory that the settings give it. Its cache is counted in whole blocks,
    and a guided trajectory takes two rows in both phases. If a batch does not fit, vLLM lets
    requests wait. On a GPU the size of its cache is an upper bound, because vLLM also keeps memory
    for activations. Raises ``UserError`` when not even one trajectory fits.
    """
    b, count = WEIGHT_BYTES[dtype], config.batch_size
    rows = count * (2 if guided else 1)
    per_position = size.layers * 2 * size.kv_heads * size.head_size * b
    cot_positions = lengths.cot_prompt + lengths.cot - 1
    image_positions = lengths.image_prompt + size.image_tokens - 1
    cot_cache = count * cot_positions * per_position
    image_cache = rows * image_positions * per_position
    reading = rows * lengths.image_prompt * (3 * size.inner + 4 * size.hidden) * b
    reading += rows * lengths.image_prompt**2 * (b + 1)  # the mask
    sampling = 5 * count * size.text_vocab * 4
    decoding = 4 * count * size.decoder_channels * size.image_size**2 * b
    weights = (size.trained + size.frozen) * b
    cache, scratch = max(cot_cache, image_cache), max(reading, sampling, decoding)
    held_by = "KV cache"
    if config.engine == "vllm":
        block = _VLLM_BLOCK[config.device]
        blocks = math.ceil(max(cot_positions, image_positions) / block)
        one = rows // count * blocks * block * per_position
        cache = _vllm_cache(config, weights, one, gpu_bytes)
        scratch = decoding if config.device == "cuda" else scratch
        if (at_once := cache // one) < count:
            held_by = f"KV cache ({at_once} of {count} fit)"
    held: dict[str, int] = {"weights": weights}
    host: dict[str, int] = {}
    if lora is not None:
        on_host = host if config.device == "cuda" else held
        on_host["base of the adapter"] = size.adapted(lora.target_modules) * b
    if config.sleep_while_learning and config.device == "cuda":
        host["weights asleep"] = weights
    return _on(config.device, held, {held_by: cache, "scratch": scratch}, host, weights)


def _vllm_cache(config: RolloutConfig, weights: int, one: int, gpu_bytes: int) -> int:
    """Bytes of vLLM's KV cache. Raises ``UserError`` if the ``one`` trajectory does not fit."""
    if config.device == "cuda":
        taken = round(config.vllm.memory_share * gpu_bytes)
        if taken < weights + one:
            raise UserError(
                f"rollout.vllm.memory_share: {config.vllm.memory_share:g} of a GPU is"
                f" {taken / GIB:.1f} GiB; weights and one trajectory need"
                f" {(weights + one) / GIB:.1f}"
            )
        return taken - weights
    cache = config.vllm.cpu_kv_cache_gib * GIB
    if cache < one:
        raise UserError(
            f"rollout.vllm.cpu_kv_cache_gib: {config.vllm.cpu_kv_cache_gib} GiB; one trajectory"
            f" needs {one / GIB:.1f}"
        )
    return cache


def reward_memory(config: RewardConfig, gpu_bytes: int) -> Memory:
    """The memory of one reward worker.

    A reward that is not in ``REWARD_MODELS`` counts as its whole share of a GPU. Raises
    ``UserError`` when the option ``dtype`` names no type.
    """
    device = "cuda" if config.gpus_per_worker > 0 else "cpu"
    if config.factory not in REWARD_MODELS:
        share = round(config.gpus_per_worker * gpu_bytes)
        return Memory(
            {"its share of the GPU": share} if share else {}, {}, {"process": PROCESS_HOST}
        )
    parameters, dtype = REWARD_MODELS[config.factory]
    try:
        weights = parameters * torch_dtype(str(config.options.get("dtype", dtype))).itemsize
    except UserError as error:
        raise UserError(f"reward {config.name!r}: {error}") from None
    return _on(device, {"weights": weights}, {"scratch": REWARD_SCRATCH}, {}, weights)


def _passes(size: ModelSize, lengths: Lengths, guided: bool) -> list[int]:
    """Positions of a trajectory in each forward pass: both phases, then the unconditional twin.

    The last token of a phase is only predicted. What trajectories share is counted for each.
    """
    image = lengths.image_prompt + size.image_tokens - 1
    both = lengths.cot_prompt + lengths.cot - 1 + image
    return [both, image] if guided else [both]


def _layer_activations(size: ModelSize, b: int) -> int:
    """Saved bytes of one decoder layer per position."""
    attention = 2 * (size.heads + size.kv_heads) * size.head_size
    norms = 2 * size.hidden * (4 + b)
    inputs = 2 * size.hidden
    return norms + (inputs + attention + 4 * size.inner) * b + 4 * size.heads


def _buckets(stage: int, base: int, optimised: int, b: int) -> int:
    if stage == 0:
        return 0
    if stage < 3:
        return 2 * min(BUCKET_ELEMENTS, optimised) * b
    return (BUCKET_ELEMENTS + min(_LIVE_PARAMETERS, base)) * b


def _on(
    device: str,
    held: dict[str, int],
    working: dict[str, int],
    host: dict[str, int],
    loading: int,
) -> Memory:
    """The memory of a process on ``device``. On a GPU the CUDA context is added."""
    host = host | {"process": PROCESS_HOST}
    if device == "cuda":
        return Memory(held | {"CUDA context": CUDA_CONTEXT}, working, host, loading)
    return Memory(held, working, host)
