"""``eg-grpo status``: shows where a run is, while it goes on and after it has ended."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from orchestrator.pipeline.status import read_status
from orchestrator.pipeline.status_text import as_json, as_text
from policy.errors import UserError


def run(parsed: argparse.Namespace) -> None:
    """Print the status of a run folder. Raises ``UserError`` when the folder has no run."""
    status = read_status(parsed.folder, time.time())
    names = _prompt_ids(parsed.folder) if parsed.groups else None
    if parsed.json:
        print(json.dumps(as_json(status, names), ensure_ascii=False, indent=1))
    else:
        print(as_text(status, names))


def _prompt_ids(folder: Path) -> dict[tuple[int, int], str]:
    """The id of the prompt at each step and place; empty when the prompt file is not here."""
    # These import torch and transformers, which takes seconds.
    from orchestrator.pipeline.order import step_prompts
    from orchestrator.settings.inputs import training_prompts
    from orchestrator.settings.run_config import load_saved

    config = load_saved(folder / "config.yaml")
    try:
        prompts, _ = training_prompts(config.data)
    except UserError:
        return {}
    return {
        (step, place): prompt.id
        for step in range(config.steps)
        for place, prompt in enumerate(
            step_prompts(prompts, config.prompts_per_step, config.seed, step)
        )
    }
