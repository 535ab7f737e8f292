"""``eg-grpo evaluate draw``: draws a suite's images with another model, for ``--images``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.suites.registry import suite_named
from orchestrator.pipeline.order import suite_seeds
from orchestrator.record.counter import Counter
from orchestrator.record.progress import Progress
from orchestrator.record.sheets import save_whole_png
from orchestrator.settings.host import PACKAGES, versions
from orchestrator.settings.machine import check_device
from orchestrator.settings.suite_images import DRAWN_BY, image_name
from orchestrator.settings.suite_inputs import SuiteInputs, check_suite
from policy.disk import write_whole, writing
from policy.errors import UserError
from policy.runtime import tune_process
from policy.text_files import read_json

if TYPE_CHECKING:
    from rollout.diffusers_pipeline import DiffusersPipeline


def draw(parsed: argparse.Namespace) -> None:
    """Write ``<place>/<index>.png`` of every prompt, and ``drawn_by.json``.

    The images that are there stay, so that the same command goes on after any end. Raises
    ``UserError`` when they were drawn in another way.
    """
    check_device(parsed.device, "--device")
    inputs = check_suite(suite_named(parsed.suite), None, parsed.overrides, scores=False)
    tune_process()
    from rollout.diffusers_pipeline import DiffusersPipeline, PipelineSettings

    settings = PipelineSettings(
        parsed.diffusers,
        parsed.steps,
        parsed.guidance,
        parsed.dtype,
        parsed.device,
        not parsed.no_filter,
    )
    about = {
        "suite": parsed.suite,
        **asdict(settings),
        "seed": inputs.config.seed,
        **versions([*PACKAGES, "diffusers"]),
    }
    if parsed.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, not {parsed.batch_size}")
    note = parsed.out / DRAWN_BY
    if note.is_file() and read_json(note) != about:
        raise UserError(f"--out: {parsed.out} has images that were drawn in another way: {note}")
    with writing(note):
        parsed.out.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(about, indent=2) + "\n")
    _draw_missing(inputs, parsed.out, lambda: DiffusersPipeline(settings), parsed.batch_size)


def _file(inputs: SuiteInputs, out: Path, place: int, index: int) -> Path:
    """The file of an image; ``place`` is the index of its prompt in ``inputs.items``."""
    return out / image_name(inputs.places[inputs.items[place].prompt.id], index)


def _draw_missing(
    inputs: SuiteInputs, out: Path, load: Callable[[], DiffusersPipeline], batch_size: int
) -> None:
    count = inputs.images_per_prompt
    missing = [
        (place, index)
        for place in range(len(inputs.items))
        for index in range(count)
        if not _file(inputs, out, place, index).is_file()
    ]
    if not missing:
        return
    pipeline = load()
    total = count * len(inputs.items)
    counter = Counter(Progress(steps=1).note, "images drawn", total, total - len(missing))
    for place, pairs in groupby(missing, key=lambda pair: pair[0]):
        prompt, indices = inputs.items[place].prompt, [index for _, index in pairs]
        seeds = suite_seeds(inputs.config.seed, inputs.suite.name, prompt.id, count)
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            images = pipeline.draw(prompt.text, [seeds[index] for index in batch])
            for index, image in zip(batch, images, strict=True):
                save_whole_png(image, _file(inputs, out, place, index))
            counter.add(len(batch))
