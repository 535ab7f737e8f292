"""Collects the inputs of a memory plan: the sizes of the model and the longest texts.

A plan can be made before anything is downloaded. For a public model that is not on this machine,
its published sizes are used. For a missing prompt file, a length is assumed. The plan says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from orchestrator.settings.inputs import policy_folder, read_instruction
from orchestrator.settings.memory import Lengths
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig
from policy.checkpoint.hub import config_folder, is_at_hand
from policy.checkpoint.loading import janus_config
from policy.checkpoint.public_models import public_config
from policy.prompts import load_prompts
from policy.templates import template_named

BYTES_PER_TOKEN = 3  # English text has more; dividing by 3 gives an upper bound of its tokens
ASSUMED_PROMPT = 200  # bytes; used without a training file (longest prompt of the public one: 159)
ASSUMED_INSTRUCTION = 700  # bytes; used without an instruction file (that of the authors: 626)


def planned_size(path: str) -> tuple[ModelSize, list[str]]:
    """The sizes of the model at ``path``, and notes about them for the user.

    The sizes are those of its config.json. For a public model that is not on this machine, the
    published sizes are used. The config.json of any other model is downloaded if it is missing.
    Raises ``UserError`` when it cannot be had.
    """
    known = public_config(path)
    if known is None:
        return _own_size(path), []
    if not is_at_hand(path):
        return ModelSize.of(known), [f"{path} is not here: planned with its published sizes"]
    size = _own_size(path)
    if size == ModelSize.of(known):
        return size, []
    return size, [f"{path}: the config.json that is here has other sizes than the published model"]


def _own_size(path: str) -> ModelSize:
    return ModelSize.of(janus_config(policy_folder(config_folder(path))))


def planned_lengths(config: RunConfig) -> Lengths:
    """Upper bounds of token counts, from template, instruction and longest training prompt."""
    template = template_named(config.model.template)
    file = config.model.instruction
    there = file is None or file.is_file()
    instruction = read_instruction(file) if there else "{}" + "x" * (ASSUMED_INSTRUCTION - 2)
    longest = "x" * ASSUMED_PROMPT
    if config.data.train.is_file():
        longest = max((p.text for p in load_prompts(config.data.train)), key=len)
    cot = config.rollout.max_cot_tokens
    return Lengths(
        cot_prompt=_tokens(template.cot_prompt(longest, instruction)),
        cot=cot,
        image_prompt=_tokens(template.image_prompt(longest, "")) + cot,
    )


def assumptions(config: RunConfig) -> Iterator[str]:
    """A line for each missing file, with the length that ``planned_lengths`` assumed for it."""
    files: tuple[tuple[str, Path | None, str], ...] = (
        ("data.train", config.data.train, f"prompts of {ASSUMED_PROMPT} bytes"),
        ("model.instruction", config.model.instruction, f"{ASSUMED_INSTRUCTION} bytes"),
    )
    for key, file, assumed in files:
        if file is not None and not file.is_file():
            yield f"{key}: {file} is not here: planned with {assumed}"


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN) + 2  # + BOS and begin-of-image
