"""Checks the input files of a run, before the first actor starts.

The checks load torch and transformers. ``orchestrator.settings.inputs`` has what is known after
them, and loads neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from itertools import chain
from typing import Any

from transformers import JanusConfig

from orchestrator.settings.inputs import (
    Inputs,
    read_instruction,
    read_texts,
    verified_policy_folder,
)
from orchestrator.settings.layers import flat
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import check_checkpoint, load_encoder, read_config
from policy.encoding import PromptEncoder
from policy.errors import UserError
from policy.secrets import MASK
from policy.types import Prompt
from rewards.cache import resolve_cache
from rewards.factory import check_factory
from rollout.vllm.installation import check_head_size, check_vllm_installed


def learner_inputs(config: RunConfig) -> Inputs:
    """What the learner alone needs, without prompts: the model and the instruction; checked."""
    model_path = verified_policy_folder(checkpoint_folder(config.model.path))
    check_checkpoint(model_path)
    instruction = read_instruction(config.model.instruction)
    size = ModelSize.of(read_config(model_path))
    return Inputs(model_path, size, instruction, prompts=[], evaluation_sets={}, leaks=[])


def check_inputs(config: RunConfig) -> Inputs:
    """Read and check every file that the configuration names; raises ``UserError``."""
    texts = read_texts(config)
    if config.rollout.engine == "vllm":
        check_vllm_installed()
    model_path = verified_policy_folder(checkpoint_folder(config.model.path))
    check_checkpoint(model_path)
    model = read_config(model_path)
    if config.rollout.engine == "vllm":
        check_head_size(config.rollout, model)
    encoder = load_encoder(model_path, config.model.template, texts.instruction)
    _check_secrets(config)
    for reward in config.rewards:
        if not reward.runtime_env.pip:  # else perhaps only its workers can import it
            check_factory(reward)
    resolve_cache(config.cache)
    check_positions(
        model,
        encoder,
        [*texts.prompts, *chain.from_iterable(texts.evaluation_sets.values())],
        config.rollout.max_cot_tokens,
        "rollout.max_cot_tokens",
    )
    return Inputs(
        model_path=model_path,
        size=ModelSize.of(model),
        instruction=texts.instruction,
        prompts=texts.prompts,
        evaluation_sets=texts.evaluation_sets,
        leaks=texts.leaks,
    )


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
