"""Checks and loads Janus checkpoints. Each fault of a checkpoint gives one line that names it.

A checkpoint is given as a folder or as a Hub id, in one of two formats. The transformers format is
that of deepseek-community/Janus-Pro-* and of all checkpoints that this project writes. The original
format is that of deepseek-ai/Janus-Pro-*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from policy.checkpoint import original_config
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.original_weights import translated_tensors
from policy.checkpoint.tokenizer import load_tokenizer
from policy.checkpoint.transformers_config import built_on_meta, untied_config
from policy.checkpoint.weight_files import read_tensors, weight_files
from policy.encoding import PromptEncoder, special_ids
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.templates import template_named
from policy.text_files import read_json

# The names that config.json has in the two formats, the transformers format first.
_FORMATS = {
    "architectures": ("JanusForConditionalGeneration", original_config.ARCHITECTURE),
    "model_type": ("janus", original_config.MODEL_TYPE),
}
_TIED = "lm_head is tied to embed_tokens, which Janus-Pro's is not"

# The progress bars of transformers would overwrite this project's own progress line.
transformers_logging.disable_progress_bar()


def check_checkpoint(checkpoint: Path | str) -> None:
    """Check a checkpoint without loading its weights.

    Raises ``UserError`` for a missing folder or file, a wrong architecture, an unreadable weight
    file, and a tensor that is missing or has a wrong shape.
    """
    folder = checkpoint_folder(checkpoint)
    config = read_config(folder)
    original = is_original(folder)
    shapes = read_tensors(weight_files(folder, pickled=original), shapes_only=True)
    if original:
        shapes = _translated(folder, shapes)
    _check_tensors(folder, config, shapes, may_be_renamed=not original)


def read_config(folder: Path) -> JanusConfig:
    """The transformers configuration of a complete checkpoint folder, in either format.

    Raises ``UserError`` when config.json or tokenizer.json is missing or config.json is wrong.
    """
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder} does not exist")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} has no {name}")
    return janus_config(folder)


def janus_config(folder: Path) -> JanusConfig:
    """The transformers configuration in a folder's config.json; other files may be missing.

    Raises ``UserError`` when the file is missing or wrong.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"checkpoint {folder} has no config.json")
    try:
        if is_original(folder):
            return original_config.translated_config(_config_json(folder))
        return untied_config(_config_json(folder))
    except (ValueError, LookupError, TypeError, StrictDataclassError) as error:
        raise UserError(
            f"checkpoint {folder}/config.json: {' '.join(str(error).split())}"
        ) from None


def is_original(folder: Path) -> bool:
    """Whether the folder is in the original format. Raises ``UserError`` if it is in neither.

    The key ``architectures`` of config.json tells the formats apart. deepseek-ai/Janus-Pro-7B does
    not have this key; then ``model_type`` does.
    """
    config = _config_json(folder)
    key = "architectures" if config.get("architectures") else "model_type"
    ours, originals = _FORMATS[key]
    named = config.get(key)
    names = named if isinstance(named, list) else [named]
    if ours not in names and originals not in names:
        raise UserError(
            f"checkpoint {folder}/config.json: {key} is {named}, not {ours} or {originals}"
        )
    return ours not in names


def load_policy(checkpoint: Path | str, dtype: torch.dtype = torch.float32) -> JanusPolicy:
    """Load a checkpoint. Raises ``UserError`` if it lacks a weight or has one too many."""
    folder = checkpoint_folder(checkpoint)
    check_checkpoint(folder)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder, "use_safetensors": True}
    if is_original(folder):
        name_tokens(config, tokenizer)
        tensors = read_tensors(weight_files(folder, pickled=True))
        source = {
            "pretrained_model_name_or_path": None,
            "state_dict": _translated(folder, tensors),
        }
    verbosity = transformers_logging.get_verbosity()
    # Below, an error is raised for each fault that transformers only warns of.
    transformers_logging.set_verbosity_error()
    try:
        loaded: Any = JanusForConditionalGeneration.from_pretrained(
            **source,
            config=config,
            generation_config=generation_config(tokenizer),
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, info[problem])):
            raise UserError(
                f"checkpoint {folder}: {problem.replace('_', ' ')}: {len(keys)}, first {keys[0]}"
            )
    _refuse_tied(folder, model)
    return JanusPolicy(model)


def load_encoder(
    checkpoint: Path | str, template: str, instruction: str | None = None
) -> PromptEncoder:
    """The checkpoint's tokenizer, together with a template of ``policy.templates``."""
    folder = checkpoint_folder(checkpoint)
    return PromptEncoder(load_tokenizer(folder), template_named(template), instruction)


def _config_json(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"checkpoint {folder}/config.json is not a JSON object")
    return config


def _translated(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        return translated_tensors(tensors)
    except ValueError as error:
        raise UserError(f"checkpoint {folder}: {error}") from None


def _check_tensors(
    folder: Path, config: JanusConfig, found: dict[str, Tensor], may_be_renamed: bool
) -> None:
    """Compare the names and shapes of tensors with those that the configuration asks for."""
    expected = built_on_meta(config, f"checkpoint {folder}/config.json").state_dict()
    for key in sorted(found.keys() & expected.keys()):
        if found[key].shape != expected[key].shape:
            raise UserError(
                f"checkpoint {folder}: {key} has shape {list(found[key].shape)}, not"
                f" {list(expected[key].shape)} as its config.json says"
            )
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    if may_be_renamed and unknown:
        # transformers renames the keys of older files when it loads them. They are checked then.
        return
    if missing == {"lm_head.weight"}:
        raise UserError(f"checkpoint {folder}: {_TIED}: there is no lm_head.weight")
    for problem, keys in (("missing", missing), ("unexpected", unknown)):
        if keys:
            raise UserError(f"checkpoint {folder}: {problem} keys: {len(keys)}, first {min(keys)}")


def _refuse_tied(folder: Path, model: JanusForConditionalGeneration) -> None:
    """Refuse a checkpoint whose text head equals its embeddings, unless it says it is untied.

    Such a file was written from a model with tied weights. It holds the same weights twice, and
    does not say that they are tied.
    """
    untied = _config_json(folder).get("tie_word_embeddings") is False
    embeddings: Any = model.get_input_embeddings()
    if not untied and torch.equal(model.lm_head.weight, embeddings.weight):
        raise UserError(f"checkpoint {folder}: {_TIED}: the two are equal")


def name_tokens(config: JanusConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the ids of special tokens into a configuration of the original format, which has none.

    This project asks the tokenizer for them. But ``generate`` of transformers reads them from the
    configuration when it draws with an exported checkpoint.
    """
    special = special_ids(tokenizer)
    config.image_token_id = tokenizer.get_vocab().get("<image_placeholder>", config.image_token_id)
    text_config = config.get_text_config()
    text_config.bos_token_id, text_config.eos_token_id = special.bos, special.eos


def generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The settings that ``generate`` of transformers needs to draw with an exported checkpoint.

    The generation settings of the loaded checkpoint are not used. transformers loads some that it
    later refuses to save, and the run would end at its first checkpoint. The sampling settings of
    this project are in ``eg_grpo.json``.
    """
    special = special_ids(tokenizer)
    return GenerationConfig(
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
        generation_kwargs={"boi_token_id": special.begin_of_image},
    )
