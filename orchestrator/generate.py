"""``eg-grpo generate``: images and CoTs for one prompt, from a checkpoint alone, without Ray."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from orchestrator.preflight import check_device, model_folder
from orchestrator.prompts import derived_seed
from orchestrator.sheets import Tile, contact_sheet, save_png
from policy.errors import UserError
from policy.generation_defaults import GenerationDefaults, load_defaults
from policy.hub import checkpoint_folder
from policy.runtime import tune_process
from policy.types import Prompt


def generate(parsed: argparse.Namespace) -> Path:
    """Write ``<output>/0.png ...``, ``cots.jsonl`` and ``sheet.png``; returns the sheet's path."""
    if parsed.n < 1:
        raise UserError(f"--n must be 1 or more, not {parsed.n}")
    check_device(parsed.device, "--device")
    tune_process()
    from rollout.config import RolloutConfig
    from rollout.engine import GenerationRequest
    from rollout.transformers_engine import load_engine

    folder = model_folder(checkpoint_folder(parsed.model))
    defaults = _with_flags(load_defaults(folder), parsed)
    config = RolloutConfig(
        guidance_scale=defaults.guidance_scale,
        temperature=defaults.temperature,
        max_cot_tokens=defaults.max_cot_tokens,
        device=parsed.device,
        gpus_per_worker=1 if parsed.device == "cuda" else 0,
    )
    engine = load_engine(
        config, folder, defaults.template, defaults.instruction, dtype=parsed.dtype
    )
    prompt = Prompt(id="generate", text=parsed.prompt, task_type="none")
    seeds = tuple(derived_seed("generate", parsed.seed, index) for index in range(parsed.n))
    (group,) = engine.generate([GenerationRequest(prompt, seeds)])

    try:
        parsed.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {parsed.output} cannot be written: {error.strerror}") from None
    with (parsed.output / "cots.jsonl").open("w", encoding="utf-8") as cots:
        for trajectory in group.trajectories:
            file = f"{trajectory.index_in_group}.png"
            Image.fromarray(trajectory.image).save(parsed.output / file)
            row = {"image": file, "prompt": parsed.prompt, "cot": trajectory.cot_text}
            cots.write(json.dumps(row, ensure_ascii=False) + "\n")
    tiles = [Tile(t.image, (parsed.prompt, t.cot_text)) for t in group.trajectories]
    sheet = parsed.output / "sheet.png"
    save_png(contact_sheet(tiles, columns=min(4, parsed.n)), sheet)
    return sheet


def _with_flags(defaults: GenerationDefaults, parsed: argparse.Namespace) -> GenerationDefaults:
    flags = {
        "template": parsed.template,
        "guidance_scale": parsed.guidance,
        "temperature": parsed.temperature,
        "max_cot_tokens": parsed.max_cot_tokens,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return GenerationDefaults(**(defaults.model_dump() | given))
    except ValidationError as error:
        problem = error.errors()[0]
        flag = str(problem["loc"][0]).replace("guidance_scale", "guidance").replace("_", "-")
        raise UserError(f"--{flag}: {problem['msg']}") from None
