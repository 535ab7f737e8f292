"""Images a second of each model reward: one at a time, in batches, and in several processes.

    python -m benchmarks.rewards                         # CPU: random models of middle size
    python -m benchmarks.rewards --processes 2            # and batched in processes side by side
    python -m benchmarks.rewards --size real --device cuda --rewards hps git grounding_dino

Models are random and are first saved to a temporary folder. The time does not depend on the values
of the weights. The ways of scoring take turns, so that a slow moment of the machine slows all of
them. A ratio is the median over rounds with a bootstrap interval. Each prompt has eight images, as
in a step of the paper.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GitConfig, GroundingDinoConfig

from benchmarks.small_models import tiny_rewards as checkpoints
from benchmarks.timing import Interval, interleave, wall_clock
from policy.runtime import tune_process
from policy.types import RewardFailure
from rewards.config import RewardConfig
from rewards.factory import build_reward
from rewards.scoring import RewardScorer

PER_PROMPT = 8
# Factory, images of a round and batch size.
REWARDS: dict[str, tuple[str, int, int]] = {
    "hps": ("rewards.models.hps:HpsReward", 32, 32),
    "git": ("rewards.models.git:GitReward", 16, 16),
    "grounding_dino": ("rewards.models.grounding_dino:GroundingDinoReward", 16, 8),
    "orm": ("rewards.models.orm:OrmReward", 16, 8),
}


def save(name: str, real: bool, folder: Path) -> dict[str, Any]:
    """Write a random checkpoint of middle or of the published size; the reward's options."""
    if name == "hps":
        clip = checkpoints.clip_config(width=256, layers=4, image_size=96, patch=16, heads=4)
        if real:  # ViT-H/14
            clip = checkpoints.clip_config(1024, 24, image_size=224, patch=14, heads=16)
            vision = clip.vision_config
            vision.hidden_size, vision.intermediate_size = 1280, 5120
            vision.num_hidden_layers = 32
        return {"model": str(checkpoints.save_hps(folder, clip)), "clip": str(folder)}
    if name == "git":
        git = checkpoints.git_config(96)
        if real:  # ViT-L/14 and a text decoder of 6 layers
            tower = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                         num_attention_heads=16, image_size=480, patch_size=14)  # fmt: skip
            git = GitConfig(vision_config=tower)
        return {"model": str(checkpoints.save_git(folder, git))}
    if name == "grounding_dino":
        if real:  # Swin-T and BERT-base, as the configuration's defaults are
            saved = checkpoints.save_grounding_dino(folder, GroundingDinoConfig(), image_size=800)
        else:
            saved = checkpoints.save_grounding_dino(folder, image_size=128)
        return {"model": str(saved)}
    if real:
        raise SystemExit("orm: a random one of 16 GB is not written; use --size middle")
    # float32: bfloat16, its own, is emulated by most CPUs.
    return {"model": str(checkpoints.save_orm(folder, width=256, layers=4)), "dtype": "float32"}


class Task:
    """A reward and what it scores, in this process."""

    def __init__(self, config: RewardConfig, number: int, image_size: int) -> None:
        self._reward = build_reward(config)
        self._images = checkpoints.images(number, image_size)
        prompts = [checkpoints.PROMPTS[2 + index % 3] for index in range(number)]
        self._prompts = [prompts[index // PER_PROMPT] for index in range(number)]

    def score(self, batch_size: int) -> None:
        results = RewardScorer(self._reward, batch_size).score(self._images, self._prompts)
        for result in results:
            if isinstance(result, RewardFailure):
                raise SystemExit(result.reason)


_task: Task


def _start(threads: int, *task: Any) -> None:
    global _task
    tune_process(threads)
    _task = Task(*task)


def _score(batch_size: int) -> None:
    _task.score(batch_size)


class Processes:
    """Each with an equal share of the images, as a pool's workers have."""

    def __init__(self, processes: int, threads: int, config: RewardConfig, number: int,
                 image_size: int) -> None:  # fmt: skip
        task = (threads, config, number // processes, image_size)
        context = multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, context, initializer=_start, initargs=task)
            for _ in range(processes)
        ]

    def score(self, batch_size: int) -> None:
        for running in [pool.submit(_score, batch_size) for pool in self._pools]:
            running.result()

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()


def measure(name: str, ways: dict[str, Callable[[], object]], images: int, rounds: int) -> None:
    """Print images a second of each way, and its ratio to the first."""
    for way in ways.values():
        way()
    seconds = interleave(list(ways.values()), rounds, wall_clock)
    for column, way in enumerate(ways):
        ratio = Interval.of(seconds[:, 0] / seconds[:, column]).times()
        rate = images / np.median(seconds[:, column])
        print(f"{name}, {way}: {rate:.1f} images/s, {ratio}, {rounds} rounds", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rewards", nargs="+", choices=list(REWARDS), default=list(REWARDS))
    parser.add_argument("--size", choices=["middle", "real"], default="middle")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--image", type=int, default=384, help="side of the images, in pixels")
    parser.add_argument(
        "--processes", type=int, default=1, help="up to this many side by side, with equal shares"
    )
    parsed = parser.parse_args()
    numbers = [REWARDS[name][1] for name in parsed.rewards]
    if parsed.processes < 1 or any(number % parsed.processes for number in numbers):
        parser.error(
            f"--processes: {parsed.processes} cannot share the images of a round equally:"
            f" {', '.join(f'{name} has {REWARDS[name][1]}' for name in parsed.rewards)}"
        )
    tune_process(parsed.threads)
    for name in parsed.rewards:
        factory, number, batch = REWARDS[name]
        with tempfile.TemporaryDirectory() as folder:
            options = save(name, parsed.size == "real", Path(folder)) | {"device": parsed.device}
            config = RewardConfig(name=name, factory=factory, options=options, batch_size=batch)
            task = Task(config, number, parsed.image)
            more = {
                count: Processes(count, parsed.threads, config, number, parsed.image)
                for count in range(2, parsed.processes + 1)
                if number % count == 0
            }
            ways: dict[str, Callable[[], object]] = {
                "one at a time": lambda task=task: task.score(1),
                f"batches of {batch}": lambda task=task, batch=batch: task.score(batch),
            } | {
                f"the same in {count} processes": lambda pool=pool, batch=batch: pool.score(batch)
                for count, pool in more.items()
            }
            measure(name, ways, number, parsed.rounds)
            for pool in more.values():
                pool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
