"""Reads and checks all input files of a run, before the first actor starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import JanusConfig

from evaluation.leaks import Leak, find_leaks, load_validation
from learner.step_checkpoint import verified_manifest
from orchestrator.settings.layers import flat
from orchestrator.settings.run_config import DataConfig, RunConfig
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import check_checkpoint, load_encoder, read_config
from policy.encoding import PromptEncoder
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.secrets import MASK
from policy.text_files import read_text
from policy.types import Prompt
from rewards.cache import resolve_cache
from rewards.factory import check_factory
from rollout.vllm.installation import check_head_size, check_vllm_installed


@dataclass(frozen=True)
class Inputs:
    """The checked contents of the files that a configuration names."""

    model_path: Path
    instruction: str | None
    prompts: list[Prompt]
    evaluation_sets: dict[str, list[Prompt]]
    leaks: list[Leak]  # validation prompts that are also in the training file


def learner_inputs(config: RunConfig) -> Inputs:
    """What the learner alone needs, without prompts: the model and the instruction; checked."""
    model_path = verified_policy_folder(checkpoint_folder(config.model.path))
    check_checkpoint(model_path)
    instruction = read_instruction(config.model.instruction)
    return Inputs(model_path, instruction, prompts=[], evaluation_sets={}, leaks=[])


def check_inputs(config: RunConfig) -> Inputs:
    """Read and check every file that the configuration names; raises ``UserError``."""
    if config.rollout.engine == "vllm":
        check_vllm_installed()
    model_path = verified_policy_folder(checkpoint_folder(config.model.path))
    check_checkpoint(model_path)
    if config.rollout.engine == "vllm":
        check_head_size(config.rollout, read_config(model_path))
    instruction = read_instruction(config.model.instruction)
    encoder = load_encoder(model_path, config.model.template, instruction)
    _check_secrets(config)
    for reward in config.rewards:
        if not reward.runtime_env.pip:  # else perhaps only its workers can import it
            check_factory(reward)
    resolve_cache(config.cache)
    prompts, leaks = training_prompts(config.data)
    evaluation_sets = {name: load_prompts(path) for name, path in config.data.evaluation.items()}
    check_positions(
        read_config(model_path),
        encoder,
        [*prompts, *chain.from_iterable(evaluation_sets.values())],
        config.rollout.max_cot_tokens,
        "rollout.max_cot_tokens",
    )
    return Inputs(
        model_path=model_path,
        instruction=instruction,
        prompts=prompts,
        evaluation_sets=evaluation_sets,
        leaks=leaks,
    )


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


def _check_secrets(config: RunConfig) -> None:
    """Refuse settings whose secret was replaced by a mask, and references to unset variables."""
    for key, value in flat(config.model_dump(mode="json")).items():
        if isinstance(value, str) and MASK in value:
            raise UserError(
                f"{key}: {MASK} stands for a secret that was not written; give it again, or have"
                " env_vars refer to the environment as ${NAME}"
            )
    for index, reward in enumerate(config.rewards):
        try:
            reward.runtime_env.resolved()
        except UserError as error:
            raise UserError(f"rewards.{index}.runtime_env.env_vars.{error}") from None


def check_positions(
    model: JanusConfig,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    max_cot_tokens: int,
    key: str,
) -> None:
    """Raise ``UserError`` when a trajectory may need more positions than the model has.

    Without this check, vLLM would refuse such a trajectory in the middle of a run. transformers
    would silently use positions that the model was not trained for. Only the 64 longest prompts
    are tokenised.
    """
    text: Any = model.get_text_config()
    vq: Any = model.vq_config
    positions, image_tokens = text.max_position_embeddings, vq.num_patches**2
    longest = nlargest(64, prompts, key=lambda prompt: len(prompt.text.encode()))
    cot_prompt = max(len(encoder.cot_prompt_ids(prompt)) for prompt in longest)
    image_prompt = max(len(encoder.image_prompt_ids(prompt, "")) for prompt in longest)
    others = max(cot_prompt, image_prompt + image_tokens)
    if others + max_cot_tokens > positions:
        raise UserError(
            f"{key}: with a CoT of {max_cot_tokens} tokens a trajectory may need"
            f" {others + max_cot_tokens} positions ({image_tokens} of them for the image), the"
            f" checkpoint has {positions}, which leaves {max(0, positions - others)} for a CoT"
        )


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
