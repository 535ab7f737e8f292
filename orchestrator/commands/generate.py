"""``eg-grpo generate``: draws images for one prompt from a checkpoint, without Ray."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from orchestrator.pipeline.order import derived_seed
from orchestrator.record.sheets import Tile, contact_sheet, save_png
from orchestrator.settings.input_checks import check_positions
from orchestrator.settings.inputs import read_instruction, verified_policy_folder
from orchestrator.settings.machine import check_device
from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import load_encoder, read_config
from policy.disk import check_vacant, made_anew, writing
from policy.errors import UserError
from policy.runtime import tune_process
from policy.text_files import is_visible
from policy.types import Group, Prompt


def run(parsed: argparse.Namespace) -> None:
    """Draw the images and print the path of the contact sheet."""
    print(generate(parsed))


def generate(parsed: argparse.Namespace) -> Path:
    """Write ``<output>/0.png ...``, ``cots.jsonl`` and ``sheet.png``; returns the sheet's path.

    Without ``--output``, the folder is the first of ``generated``, ``generated-2``, ... that does
    not exist. Raises ``UserError`` for a folder that is not empty, because images of two prompts
    would mix.
    """
    for flag, value in (("--n", parsed.n), ("--batch-size", parsed.batch_size)):
        if value < 1:
            raise UserError(f"{flag} must be 1 or more, not {value}")
    if not is_visible(parsed.prompt):
        raise UserError("--prompt is empty, or nothing of it can be seen")
    if parsed.output is not None:
        check_vacant(parsed.output)
    check_device(parsed.device, "--device")
    tune_process()
    import torch

    from rollout.config import RolloutConfig
    from rollout.engine import GenerationRequest
    from rollout.transformers_engine import load_transformers_engine

    folder = verified_policy_folder(checkpoint_folder(parsed.model))
    defaults = _with_flags(load_defaults(folder), parsed)
    prompt = Prompt(id="generate", text=parsed.prompt, task_type="none")
    config = RolloutConfig(
        **asdict(defaults.sampling),
        batch_size=parsed.batch_size,
        device=parsed.device,
        gpus_per_worker=1 if parsed.device == "cuda" else 0,
    )
    model = read_config(folder)  # first, because it says whether there is such a folder
    encoder = load_encoder(folder, defaults.template, defaults.instruction)
    check_positions(model, encoder, [prompt], defaults.max_cot_tokens, "--max-cot-tokens")
    engine = load_transformers_engine(
        config, folder, defaults.template, defaults.instruction, dtype=parsed.dtype
    )
    seeds = tuple(derived_seed("generate", parsed.seed, index) for index in range(parsed.n))
    output = _made(parsed.output)  # first, because an unwritable folder would waste the work
    try:
        (group,) = engine.generate([GenerationRequest(prompt, seeds)])
    except torch.OutOfMemoryError:
        raise UserError(
            f"--device {parsed.device} has no room for {min(parsed.n, parsed.batch_size)} images at"
            " once; give a smaller --batch-size"
        ) from None
    return _write(group, parsed.prompt, output)


def _made(output: Path | None) -> Path:
    try:
        if output is None:
            return made_anew(Path("generated"))
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = output or Path.cwd()
        raise UserError(f"--output: {folder} cannot be written: {error.strerror}") from None
    return output


def _write(group: Group, prompt: str, output: Path) -> Path:
    rows = output / "cots.jsonl"
    with writing(rows), rows.open("w", encoding="utf-8") as cots:
        for trajectory in group.trajectories:
            file = f"{trajectory.index_in_group}.png"
            save_png(trajectory.image, output / file)
            row = {"image": file, "prompt": prompt, "cot": trajectory.cot_text}
            cots.write(json.dumps(row, ensure_ascii=False) + "\n")
    tiles = [Tile(t.image, (prompt, t.cot_text)) for t in group.trajectories]
    sheet = output / "sheet.png"
    save_png(contact_sheet(tiles, columns=min(4, len(tiles))), sheet)
    return sheet


def _with_flags(defaults: GenerationDefaults, parsed: argparse.Namespace) -> GenerationDefaults:
    flags = {
        "template": parsed.template,
        "guidance_scale": parsed.guidance,
        "temperature": parsed.temperature,
        "max_cot_tokens": parsed.max_cot_tokens,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if parsed.instruction is not None:
        given["instruction"] = read_instruction(parsed.instruction, "--instruction")
    try:
        return GenerationDefaults(**(defaults.model_dump() | given))
    except ValidationError as error:
        problem = error.errors()[0]
        flag = str(problem["loc"][0]).replace("guidance_scale", "guidance").replace("_", "-")
        raise UserError(f"--{flag}: {problem['msg']}") from None
