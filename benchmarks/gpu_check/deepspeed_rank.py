"""A learner rank in DeepSpeed at every ZeRO stage: updates, a checkpoint, and the way back from it.

One rank, so NCCL carries nothing between GPUs. A kind of rank that raises is written down with what
it said, and the next one starts. Where DeepSpeed is not installed, the part says so.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_check.measuring import seconds_of
from benchmarks.gpu_check.task import Measure, Task
from benchmarks.published import published_weights
from benchmarks.small_models.random_janus import save_tiny_checkpoint
from benchmarks.trajectories import random_groups
from learner.config import AlgorithmConfig, LearnerConfig, LoraConfig
from learner.rank_settings import LearnerSettings, Place
from learner.shares import GroupSlice, TrainingGroup, split_over_ranks
from policy.base_settings import Dtype
from policy.checkpoint.loading import load_policy
from policy.sampling import Sampling
from policy.weights import unpack

if TYPE_CHECKING:  # it imports DeepSpeed
    from learner.rank import LearnerRank

KINDS: dict[str, tuple[Dtype, dict[str, Any]]] = {
    "ZeRO 0, float32": ("float32", {}),
    "ZeRO 1, bfloat16": ("bfloat16", {"zero_stage": 1}),
    "ZeRO 2, bfloat16": ("bfloat16", {"zero_stage": 2}),
    "ZeRO 2, bfloat16, optimizer on the host": (
        "bfloat16",
        {"zero_stage": 2, "offload_optimizer": True},
    ),
    "ZeRO 3, bfloat16": ("bfloat16", {"zero_stage": 3}),
    "ZeRO 3, bfloat16, all on the host": (
        "bfloat16",
        {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    ),
    "ZeRO 1, bfloat16, LoRA": ("bfloat16", {"zero_stage": 1, "lora": LoraConfig(rank=2)}),
}
_ADVANTAGES = ((1.0, -0.5, None, 0.3), (0.8, -1.2, 0.0, 0.4))


def measures(task: Task) -> Iterator[Measure]:
    if importlib.util.find_spec("deepspeed") is None:
        yield Measure("deepspeed", "not installed")
        return
    os.environ["DS_ACCELERATOR"] = task.device
    model = save_tiny_checkpoint(task.folder / "model")
    groups = random_groups(load_policy(model), [[3, 5, 4, 0], [1, 2, 9, 6]])
    batch = [TrainingGroup(g, a) for g, a in zip(groups, _ADVANTAGES, strict=True)]
    share = split_over_ranks(batch, 1)[0]
    place = Place(0, 1, "127.0.0.1", _free_port())
    for number, (kind, (dtype, learner)) in enumerate(KINDS.items()):
        folder = task.folder / f"step-{number}"
        try:
            settings = _settings(model, task.device, dtype, learner)
            yield from _rank(kind, settings, place, share, folder)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            yield Measure(kind, f"{type(error).__name__}: {said}")


def _rank(
    kind: str,
    settings: LearnerSettings,
    place: Place,
    share: Sequence[GroupSlice],
    folder: Path,
) -> Iterator[Measure]:
    from learner.rank import LearnerRank

    rank = LearnerRank(settings, place)
    before = _weights(rank)
    rank.update(share)
    rank.save(folder)
    row: dict[str, float] = {}
    taken = seconds_of(lambda: row.update(rank.update(share)))
    after = _weights(rank)
    rank.close()
    again = LearnerRank(settings, place)
    again.load(folder)
    again.update(share)
    resumed = _weights(again)
    again.close()
    moved = "moved" if not torch.equal(before, after) else "did not move"
    way_back = "equal" if torch.equal(after, resumed) else "differ"
    yield Measure(
        kind,
        f"gradient norm {row['grad_norm']:.3g}; weights {moved}; after the checkpoint {way_back}",
    )
    yield Measure(f"{kind}: update", taken, "s")


def _weights(rank: LearnerRank) -> torch.Tensor:
    _, buckets = published_weights(rank)
    return torch.cat([tensor.flatten().float() for _, tensor in unpack(buckets)])


def _settings(model: Path, device: str, dtype: Dtype, learner: dict[str, Any]) -> LearnerSettings:
    return LearnerSettings(
        learner=LearnerConfig(
            learning_rate=1e-3,
            micro_batch_size=4,
            device="cuda" if device == "cuda" else "cpu",
            gpus_per_rank=float(device == "cuda"),
            **learner,
        ),
        algorithm=AlgorithmConfig(),
        checkpoint=model,
        dtype=dtype,
        template="shapes",
        instruction=None,
        sampling=Sampling(1.0, 1.0, 64),
        total_steps=10,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
