"""Loading a Janus checkpoint folder, with one clear line for each way it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from policy.encoding import PromptEncoder
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.templates import template_named

ARCHITECTURE = "JanusForConditionalGeneration"

# Its bars would cut through our own progress line.
transformers_logging.disable_progress_bar()


def check_checkpoint(path: Path) -> None:
    """Refuse, without loading it, a folder that cannot be a Janus checkpoint.

    Raises ``UserError`` for a missing folder or file, a wrong architecture, an unreadable
    weight file, a missing or misshapen tensor.
    """
    if not path.is_dir():
        raise UserError(f"checkpoint {path} does not exist")
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise UserError(f"checkpoint {path} has no {name}")
    try:
        config = json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"checkpoint {path}/config.json is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"checkpoint {path}/config.json is not a JSON object")
    architectures = config.get("architectures") or []
    if ARCHITECTURE not in architectures:
        raise UserError(f"checkpoint {path} is of architecture {architectures}, not {ARCHITECTURE}")
    shapes: dict[str, list[int]] = {}
    for file in _weight_files(path):
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  (no dict: it cannot be iterated)
                    shapes[key] = tensors.get_slice(key).get_shape()
        except (SafetensorError, OSError) as error:
            raise UserError(f"checkpoint file {file} is corrupt: {error}") from None
    _check_tensors(path, shapes)


def load_policy(path: Path, dtype: torch.dtype = torch.float32) -> JanusPolicy:
    """Load a folder in transformers' format; every key must be there and none besides."""
    check_checkpoint(path)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would warn of is an error below
    try:
        loaded: Any = JanusForConditionalGeneration.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, info[problem])):
            raise UserError(
                f"checkpoint {path}: {problem.replace('_', ' ')}: {len(keys)}, first {keys[0]}"
            )
    try:
        return JanusPolicy(model)
    except ValueError as error:
        raise UserError(f"checkpoint {path}: {error}") from None


def _check_tensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """Compare names and shapes with those of the model that the configuration describes."""
    with torch.device("meta"):
        model = JanusForConditionalGeneration(JanusConfig.from_pretrained(path))
    expected = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    for key in sorted(shapes.keys() & expected.keys()):
        if shapes[key] != expected[key]:
            raise UserError(
                f"checkpoint {path}: {key} has shape {shapes[key]}, not {expected[key]} as its"
                " config.json says"
            )
    missing, unknown = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    if missing == {"lm_head.weight"} and model.config.tie_word_embeddings:
        return  # said better when the model is built
    # transformers renames the keys of older files while it loads them, and checks them then.
    if missing and not unknown:
        raise UserError(f"checkpoint {path}: missing keys: {len(missing)}, first {min(missing)}")


def _weight_files(path: Path) -> list[Path]:
    """The files that hold the weights; all that an index names must be there."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError(f"checkpoint {path} has no *.safetensors file")
        return files
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"checkpoint index {index} is not a weight index") from None
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"checkpoint {path} has no {name}, which its index names")
    return [path / name for name in names]


def load_encoder(path: Path, template: str, instruction: str | None = None) -> PromptEncoder:
    """The checkpoint's tokenizer with a template of the registry.

    The fast class is named outright: the Llama tokenizer classes of transformers 5 ignore the
    byte-level pre-tokenizer that Janus's tokenizer.json asks for.
    """
    if not (path / "tokenizer.json").is_file():
        raise UserError(f"checkpoint {path} has no tokenizer.json")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    return PromptEncoder(tokenizer, template_named(template), instruction)
