"""Draws and scores what an analysis lacks, in this process: setting by setting, prompt by prompt.

One model is in memory at a time: each policy is loaded once for all of its prompts, and then each
reward once for all settings. Nothing is loaded that has nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from orchestrator.pipeline.entropy_dataset import DrawnAs, SettingFolder
from orchestrator.pipeline.order import derived_seed
from orchestrator.settings.input_checks import check_positions
from orchestrator.settings.inputs import read_instruction, verified_policy_folder
from orchestrator.settings.run_config import RunConfig
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import (
    check_checkpoint,
    is_original,
    load_encoder,
    read_config,
)
from policy.checkpoint.weight_files import weight_files
from policy.digest import sha256
from policy.errors import UserError
from policy.sampling import Sampling
from policy.types import Prompt, RewardFailure, RewardResult
from rewards.factory import check_factory
from rewards.in_process import scorer_in_process
from rollout.transformers_engine import load_transformers_engine


@dataclass(frozen=True)
class Setting:
    """One distribution of images: a checkpoint, drawn with or without a CoT."""

    name: str
    model: str
    with_cot: bool


@dataclass(frozen=True)
class Extent:
    """How much is drawn: for each prompt ``cots`` CoTs with ``images_per_cot`` images each.

    A setting without CoT has as many images in all, as if they were of one CoT.
    """

    prompts: tuple[Prompt, ...]
    cots: int
    images_per_cot: int
    seed: int


class EntropyDrawing:
    """The settings of an analysis; ``draw`` and ``score`` fill their folders."""

    def __init__(
        self, config: RunConfig, settings: Sequence[Setting], extent: Extent, output: Path
    ) -> None:
        """Raises ``UserError`` for a reward or a checkpoint that cannot be used, and for a folder
        with samples that were drawn otherwise."""
        for reward in config.rewards:
            check_factory(reward)
        self._config = config
        self._extent = extent
        self._instruction = read_instruction(config.model.instruction)
        models = [verified_policy_folder(checkpoint_folder(s.model)) for s in settings]
        for model in models:
            check_checkpoint(model)
        drawn_as = [
            self._drawn_as(setting, model) for setting, model in zip(settings, models, strict=True)
        ]
        self.folders = [
            SettingFolder(output, setting.name, how)
            for setting, how in zip(settings, drawn_as, strict=True)
        ]
        self._models = models

    def draw(self) -> None:
        """Draw the groups that are missing."""
        prompts = self._extent.prompts
        missing = [folder.missing(prompts) for folder in self.folders]
        progress = _Progress("drawn", sum(map(len, missing)))
        for folder, model, places in zip(self.folders, self._models, missing, strict=True):
            if places:
                self._draw(folder, model, places, progress)

    def _draw(
        self, folder: SettingFolder, model: Path, places: Sequence[int], progress: _Progress
    ) -> None:
        config, how = self._config, folder.drawn_as
        sampling = Sampling(how.guidance_scale, how.temperature, how.max_cot_tokens)
        engine = load_transformers_engine(
            config.rollout, model, config.model.template, self._instruction, config.model.dtype
        )
        for place in places:
            prompt = self._extent.prompts[place]
            seeds = [derived_seed("analysis", how.seed, place, cot) for cot in range(how.cots)]
            try:
                group = engine.generate_per_cot(prompt, seeds, how.images_per_cot, sampling)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"rollout.batch_size: {config.rollout.device} has no room for"
                    f" {config.rollout.batch_size} images at once"
                ) from None
            folder.keep(place, group)
            progress.one(folder.name)

    def score(self) -> None:
        """Score the groups that a reward has not scored yet, reward by reward.

        A group of which it could not score an image is scored again.
        """
        prompts = self._extent.prompts
        for reward in self._config.rewards:
            missing = [
                (folder, place)
                for folder in self.folders
                for place in range(len(prompts))
                if _to_be_scored(folder.results(place, reward))
            ]
            if not missing:
                continue
            progress = _Progress(f"scored by {reward.name}", len(missing))
            with scorer_in_process(reward) as scorer:
                for folder, place in missing:
                    group = folder.group(place, prompts[place])
                    images = [trajectory.image for trajectory in group.trajectories]
                    results = scorer.score(images, [group.prompt] * len(images))
                    folder.keep_results(place, reward, results)
                    progress.one(folder.name)

    def _drawn_as(self, setting: Setting, model: Path) -> DrawnAs:
        config, extent = self._config, self._extent
        rollout = config.rollout
        janus: Any = read_config(model)
        encoder = load_encoder(model, config.model.template, self._instruction)
        check_positions(
            janus, encoder, extent.prompts, rollout.max_cot_tokens, "rollout.max_cot_tokens"
        )
        sampling = rollout.sampling
        if not setting.with_cot:
            sampling = replace(sampling, max_cot_tokens=0)
        cots = extent.cots if setting.with_cot else 1
        return DrawnAs(
            weights={
                file.name: sha256(file) for file in weight_files(model, pickled=is_original(model))
            },
            template=config.model.template,
            instruction=self._instruction,
            guidance_scale=sampling.guidance_scale,
            temperature=sampling.temperature,
            max_cot_tokens=sampling.max_cot_tokens,
            dtype=config.model.dtype,
            seed=extent.seed,
            cots=cots,
            images_per_cot=extent.cots * extent.images_per_cot // cots,
            text_vocab_size=janus.get_text_config().vocab_size,
            num_codes=janus.vq_config.num_embeddings,
        )


def _to_be_scored(results: tuple[RewardResult, ...] | None) -> bool:
    return results is None or any(isinstance(result, RewardFailure) for result in results)


class _Progress:
    """Prints a line for each group, with the time that the others of this work will take."""

    def __init__(self, done: str, total: int) -> None:
        self._done, self._total, self._count = done, total, 0
        self._started = time.monotonic()

    def one(self, setting: str) -> None:
        """One more group is done."""
        self._count += 1
        left_s = (time.monotonic() - self._started) / self._count * (self._total - self._count)
        print(
            f"{self._done}: {self._count} of {self._total} groups ({setting}),"
            f" about {left_s:.0f} s left",
            flush=True,
        )
