"""The input files of a run, as its driver knows them once they are checked.

The checks are in ``orchestrator.settings.input_checks``, which loads torch and transformers. This
module loads neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluation.leaks import Leak, find_leaks, load_validation
from learner.step_checkpoint import verified_manifest
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import DataConfig, RunConfig
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.text_files import read_text
from policy.types import Prompt


@dataclass(frozen=True)
class Inputs:
    """The checked contents of the files that a configuration names."""

    model_path: Path
    size: ModelSize
    instruction: str | None
    prompts: list[Prompt]
    evaluation_sets: dict[str, list[Prompt]]
    leaks: list[Leak]  # validation prompts that are also in the training file


@dataclass(frozen=True)
class Texts:
    """The contents of the text files that a configuration names, as ``Inputs`` has them."""

    instruction: str | None
    prompts: list[Prompt]
    evaluation_sets: dict[str, list[Prompt]]
    leaks: list[Leak]


def read_texts(config: RunConfig) -> Texts:
    """Read prompt files and the instruction; raises ``UserError`` with file and line.

    This takes a moment, and the checks of the model seconds. So it comes before them.
    """
    instruction = read_instruction(config.model.instruction)
    prompts, leaks = training_prompts(config.data)
    evaluation_sets = {name: load_prompts(path) for name, path in config.data.evaluation.items()}
    return Texts(instruction, prompts, evaluation_sets, leaks)


def training_prompts(data: DataConfig) -> tuple[list[Prompt], list[Leak]]:
    """The prompts that are trained on, and the validation prompts that are in their file.

    Raises ``UserError`` when a file cannot be read, or every prompt is a validation prompt that is
    to be dropped.
    """
    prompts = load_prompts(data.train)
    leaks = find_leaks(prompts, [v for path in data.validation for v in load_validation(path)])
    if data.leaks == "drop":
        leaked = {prompt.id for leak in leaks for prompt in leak.training}
        prompts = [prompt for prompt in prompts if prompt.id not in leaked]
        if not prompts:
            raise UserError(f"data.leaks: every prompt of {data.train} is a validation prompt")
    return prompts, leaks


def policy_folder(path: Path) -> Path:
    """The folder of the model itself.

    In a ``step-N`` checkpoint of a run it is the subfolder ``model``. Any other folder holds the
    model directly. Raises ``UserError`` for the folder of a run.
    """
    refuse_run_folder(path)
    inner = path / "model"
    return (inner if (inner / "config.json").is_file() else path).absolute()


def refuse_run_folder(path: Path) -> None:
    """Raise ``UserError`` if the folder is that of a run, which is often given for a checkpoint."""
    if (path / "checkpoints").is_dir() and (path / "config.yaml").is_file():
        raise UserError(f"{path} is a run folder, not a checkpoint: give {path}/checkpoints/step-N")


def verified_policy_folder(path: Path) -> Path:
    """``policy_folder``, after a check that the files of a ``step-N`` checkpoint are unchanged."""
    folder = policy_folder(path)
    if folder != path.absolute():
        verified_manifest(path)
    return folder


def read_instruction(path: Path | None, key: str = "model.instruction") -> str | None:
    """The CoT instruction in a file. Raises ``UserError`` unless it contains {} exactly once."""
    if path is None:
        return None
    text = read_text(path, f"{key}: {path}")
    if text.count("{}") != 1:
        raise UserError(f"{key}: {path} must hold {{}} once, where the prompt goes")
    return text
