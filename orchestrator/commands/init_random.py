"""``eg-grpo init-random``: writes a checkpoint of real shape with random weights."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from policy.checkpoint.loading import check_checkpoint
from policy.checkpoint.random_checkpoint import Format, random_config, write_random_checkpoint
from policy.disk import check_vacant, writing


def run(parsed: argparse.Namespace) -> None:
    """Write the checkpoint and print its folder."""
    print(init_random(parsed.output, parsed.like, parsed.format, parsed.image_size, parsed.layers))


def init_random(
    output: Path,
    like: str,
    kind: Format = "transformers",
    image_size: int | None = None,
    layers: int | None = None,
) -> Path:
    """Write a checkpoint to ``output``, which appears whole or not at all; returns its path.

    See ``random_config`` for ``like``, ``image_size`` and ``layers``. Raises ``UserError`` for a
    folder that is not empty, and ``NotWritten`` when the disk is full.
    """
    config = random_config(like, image_size, layers)
    output = output.absolute()
    check_vacant(output)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with writing(output, RuntimeError):  # torch raises it when the disk is full
            unfinished.mkdir(parents=True)
            write_random_checkpoint(unfinished, config, kind)
            check_checkpoint(unfinished)
            unfinished.replace(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output
