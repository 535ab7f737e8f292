"""How much disk the checkpoints of a run need, and whether it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.settings.memory import gib_text
from orchestrator.settings.model_size import WEIGHT_BYTES, ModelSize
from orchestrator.settings.run_config import RunConfig
from policy.errors import UserError


def checkpoint_bytes(config: RunConfig, size: ModelSize) -> int:
    """Bytes of one checkpoint, but for files of some kilobytes; 0 if the run has no learner.

    It has the whole model, the adapter if there is one, and of each trained parameter what
    DeepSpeed writes: Adam's two averages in float32, the float32 weight (ZeRO 1 and more), and the
    weight in the model's type (not at ZeRO 3).
    """
    if not config.learner_ranks:
        return 0
    b, stage = WEIGHT_BYTES[config.model.dtype], config.learner.zero_stage
    lora = config.learner.lora
    adapter = size.lora(lora.rank, lora.target_modules) if lora else 0
    trained = adapter or size.trained
    of_each = 8 + (4 if stage >= 1 else 0) + (b if stage < 3 else 0)
    return b * (size.trained + size.frozen + adapter) + of_each * trained


def checkpoints_at_once(config: RunConfig) -> int:
    """How many checkpoints there are at most: the last one, the best one and the one that is
    written; with kept trajectories also the one before them."""
    return 4 if config.trajectories.keep_steps else 3


def disk_text(config: RunConfig, size: ModelSize) -> str:
    """What the checkpoints of the run take and what is free for them, as text.

    Checkpoints that the run has written count as free: later ones take their place. Raises
    ``UserError`` when there is too little.
    """
    one, count = checkpoint_bytes(config, size), checkpoints_at_once(config)
    run = config.root.absolute() / config.name
    there = next(folder for folder in (run, *run.parents) if folder.is_dir())
    written = sum(map(_bytes, run.glob("checkpoints/**/*")))
    free = shutil.disk_usage(there).free + written
    text = f"{count} checkpoints of {gib_text(one)}, {gib_text(free)} are free in {there}"
    if free < count * one:
        raise UserError(f"root: too little disk for {text}")
    return text


def _bytes(path: Path) -> int:
    """The size of a file. The run may delete it at the same time."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
