"""Measures images a second and memory of the reward models.

The reward's own code reads the configuration, prepares the inputs and scores. Weights are random
and made on the device: ``load_model`` is replaced, so that no file of gigabytes is written. The
tokenizers split texts into letters, so a text has more tokens than with the real tokenizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu_check import reward_folders
from benchmarks.gpu_check.measuring import MIB, extra_bytes, median_seconds, size_in_bytes
from benchmarks.gpu_check.task import Measure, Task
from policy.types import RewardFailure

PER_PROMPT = 8
# Class and images of a call.
REWARDS: dict[str, tuple[str, int]] = {
    "hps": ("rewards.models.hps:HpsReward", 32),
    "git": ("rewards.models.git:GitReward", 16),
    "grounding_dino": ("rewards.models.grounding_dino:GroundingDinoReward", 8),
    "orm": ("rewards.models.orm:OrmReward", 8),
    "clip_score": ("rewards.models.clip_score:ClipScoreReward", 32),
}


def measures(task: Task) -> Iterator[Measure]:
    for name in REWARDS:
        try:
            yield from _of_reward(task, name)
        except (ImportError, torch.OutOfMemoryError) as error:
            yield Measure(name, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if task.device == "cuda":
            torch.cuda.empty_cache()


def _of_reward(task: Task, name: str) -> Iterator[Measure]:
    factory, count = REWARDS[name]
    folder = task.folder / name
    options = reward_folders.described(name, folder, task.tiny) | {"device": task.device}
    made: list[Any] = []
    reward = build(factory, options, made)
    count = task.sized(count, 2)
    images = reward_folders.images(count, task.sized(384, 48))
    known = reward_folders.PROMPTS[2:5]  # those that every reward judges
    prompts = [known[index // PER_PROMPT % len(known)] for index in range(count)]

    def score() -> None:
        for result in reward.score(images, prompts):
            if isinstance(result, RewardFailure):
                raise RuntimeError(f"{name}: {result.reason}")

    score()
    extra = extra_bytes(score, task.device)
    taken = median_seconds(score, most=5)
    parameters = list(made[0].parameters())
    shape = (
        f"{sum(p.numel() for p in parameters) / 1e6:,.1f} M parameters,"
        f" {str(made[0].dtype)[6:]}, {count} images at once"
    )
    yield Measure(name, count / taken, "images/s", shape)
    yield Measure(f"{name}: weights", size_in_bytes(parameters) / MIB, "MiB", shape)
    yield Measure(f"{name}: at work", extra / MIB, "MiB", shape)


# The module that loads the model of a reward, where it is not the reward's own.
_LOADERS = {"rewards.models.grounding_dino": "rewards.models.grounding_dino_detector"}


def build(factory: str, options: dict[str, Any], made: list[Any]) -> Any:
    """The reward with random weights; its model is put into ``made``."""
    module_name, class_name = factory.split(":")
    module = importlib.import_module(module_name)

    def random_model(
        model_class: Any, folder: Path, device: Any, dtype: Any = torch.float32, **source: Any
    ) -> Any:
        source.setdefault("config", None)
        config = source["config"] or model_class.config_class.from_pretrained(folder)
        torch.manual_seed(0)
        with torch.device(device):
            model = model_class._from_config(config, dtype=dtype)
        # Some models make a parameter on the CPU whatever the context says.
        made.append(model.to(device).eval().requires_grad_(False))
        return made[-1]

    loader = importlib.import_module(_LOADERS.get(module_name, module_name))
    with mock.patch.object(loader, "load_model", random_model):
        return getattr(module, class_name)(**options)
