"""Writes checkpoints with random weights, of the published sizes or tiny, in either format.

They draw noise. They are for what can be tried without trained weights: memory, time, start-up.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import JanusConfig

from policy.checkpoint.loading import generation_config, name_tokens
from policy.checkpoint.original_config import TINY, VISION_TOWERS, translated_config
from policy.checkpoint.original_names import Shape, only_original, original_names
from policy.checkpoint.public_models import original_config, public_original_config
from policy.checkpoint.random_tokenizer import SPECIAL, random_tokenizer
from policy.checkpoint.transformers_config import built_on_meta
from policy.checkpoint.weight_files import PICKLED, SAFETENSORS
from policy.errors import UserError

Format = Literal["transformers", "original"]
# The weights that make up one tensor of a file: their names in transformers, and their shapes.
Parts = tuple[tuple[str, Shape], ...]

PUBLIC = {"janus-pro-1b": "Janus-Pro-1B", "janus-pro-7b": "Janus-Pro-7B"}
# No file is larger, because a whole file is in memory before it is written.
_FILE_BYTES = 2 * 10**9
_TINY_LANGUAGE = {
    "vocab_size": 256 + len(SPECIAL),
    "max_position_embeddings": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def random_config(
    like: str, image_size: int | None = None, layers: int | None = None
) -> dict[str, Any]:
    """The config.json of such a model in the original format; ``like`` is of ``PUBLIC`` or tiny.

    ``image_size`` is in pixels and decides how many tokens an image has. ``layers`` are those of
    the language model. None takes the model's own. Raises ``UserError`` for an impossible value.
    """
    if like == "tiny":
        config = original_config(_TINY_LANGUAGE, TINY, TINY, image_size=16, codes=64)
    else:
        config = public_original_config(PUBLIC[like])
    vision = config["vision_config"]["params"]
    patch = VISION_TOWERS[vision["model_name"]]["patch_size"]
    if image_size is not None:
        if image_size < patch or image_size % patch:
            raise UserError(f"--image-size must be a multiple of {patch}, not {image_size}")
        vision["image_size"] = image_size
    if layers is not None:
        if layers < 1:
            raise UserError(f"--layers must be 1 or more, not {layers}")
        config["language_config"]["num_hidden_layers"] = layers
    return config


def write_random_checkpoint(folder: Path, original: dict[str, Any], kind: Format) -> None:
    """Write a checkpoint into the empty ``folder``; ``original`` is a ``random_config``.

    The weights are bfloat16, as the published ones. Both formats of a configuration hold the same
    model, in any release of torch that draws the same numbers.
    """
    config = translated_config(original)
    tokenizer = random_tokenizer(config.get_text_config().vocab_size)
    tokenizer.save_pretrained(folder)
    if kind == "original":
        (folder / "config.json").write_text(json.dumps(original, indent=2) + "\n", encoding="utf-8")
        _write_files(folder, _original_tensors(config, original), PICKLED)
        return
    name_tokens(config, tokenizer)
    config.architectures, config.dtype = ["JanusForConditionalGeneration"], torch.bfloat16
    config.save_pretrained(folder)
    generation_config(tokenizer).save_pretrained(folder)
    _write_files(
        folder, {name: ((name, shape),) for name, shape in _shapes(config).items()}, SAFETENSORS
    )


def _shapes(config: JanusConfig) -> dict[str, Shape]:
    """Names and shapes of all weights in transformers."""
    model = built_on_meta(config, "config.json")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _original_tensors(config: JanusConfig, original: dict[str, Any]) -> dict[str, Parts]:
    """The tensors of the original's files, by their names there."""
    shapes = _shapes(config)
    tensors: dict[str, Parts] = {
        name: tuple((part, shapes[part]) for part in parts)
        for name, parts in original_names(shapes)
    }
    tower = VISION_TOWERS[original["vision_config"]["params"]["model_name"]]
    return tensors | {name: ((name, shape),) for name, shape in only_original(tower)}


def _write_files(folder: Path, tensors: dict[str, Parts], name: str) -> None:
    """Write the weights in one file called ``name``, or in several with an index."""
    stem, suffix = name.split(".")
    shares = list(_shares(tensors))
    files = [
        name if len(shares) == 1 else f"{stem}-{number:05}-of-{len(shares):05}.{suffix}"
        for number in range(1, len(shares) + 1)
    ]
    for file, share in zip(files, shares, strict=True):
        filled = {key: _tensor(key, tensors[key]) for key in share}
        if name == PICKLED:
            torch.save(filled, folder / file)
        else:
            save_file(filled, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        places = {key: file for file, share in zip(files, shares, strict=True) for key in share}
        index = {"metadata": {"total_size": _bytes(tensors.values())}, "weight_map": places}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{name}.index.json").write_text(text, encoding="utf-8")


def _shares(tensors: dict[str, Parts]) -> Iterator[list[str]]:
    """The tensors of each file, in their order."""
    share: list[str] = []
    for name in tensors:
        if share and _bytes(tensors[key] for key in (*share, name)) > _FILE_BYTES:
            yield share
            share = []
        share.append(name)
    yield share


def _bytes(tensors: Iterable[Parts]) -> int:
    return 2 * sum(math.prod(shape) for parts in tensors for _, shape in parts)


def _tensor(name: str, parts: Parts) -> Tensor:
    """A tensor of a file. The original has one dimension more in its table of positions."""
    drawn = [_random(*part) for part in parts]
    tensor = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
    return tensor.unsqueeze(0) if name.endswith(".pos_embed") else tensor


def _random(name: str, shape: Shape) -> Tensor:
    """Weights such that the outputs of a layer are about as large as its inputs.

    Each tensor has its own seed, so that it does not depend on which others are written.
    """
    if len(shape) == 1:  # norms and biases
        return torch.full(shape, float(name.endswith(".weight")), dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.empty(shape, dtype=torch.bfloat16)
    return drawn.normal_(std=1 / math.sqrt(math.prod(shape[1:])), generator=generator)
