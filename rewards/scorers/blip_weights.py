"""Loads BLIP for questions as T2I-CompBench does, and refuses settings that score wrongly.

A folder in the format of transformers loads without a complaint when its settings are not those of
the original model, and its scores are then wrong: with 8 text heads by up to 0.36, at 384 pixels by
0.02, with another epsilon by 2e-4. So the three settings are checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForQuestionAnswering

from policy.checkpoint.weight_files import read_tensors, weight_files
from policy.errors import UserError
from rewards.models.pretrained import load_model, reward_model_folder, weights_digest

SIDE = 480  # pixels
_HEADS, _EPSILON, _POSITIONS = 12, 1e-6, 901  # 30 x 30 patches and the class token
ORIGINAL = "model_base_vqa_capfilt_large.pth"
# Parts of the original names, in the order in which they are replaced.
VISION_NAMES = (
    ("visual_encoder.", "vision_model."),
    (".blocks.", ".encoder.layers."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".norm.", ".post_layernorm."),
    (".patch_embed.proj.", ".embeddings.patch_embedding."),
    (".cls_token", ".embeddings.class_embedding"),
    (".pos_embed", ".embeddings.position_embedding"),
)


def blip_place(model: str) -> Path:
    """The original file, or a folder in the format of transformers.

    Raises ``UserError`` when it is neither, and for a folder with other settings than the original.
    """
    path = Path(model)
    if path.is_file():
        return path
    if (path / ORIGINAL).is_file():
        return path / ORIGINAL
    folder = reward_model_folder(model, ("config.json",))
    _check(BlipConfig.from_pretrained(folder, local_files_only=True), folder)
    return folder


def load_blip(place: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, str]:
    """The model at ``place``, which ``blip_place`` found, and the digest of its weights."""
    if place.is_dir():
        digest = weights_digest(weight_files(place, pickled=True))
        return load_model(BlipForQuestionAnswering, place, device, dtype), digest
    tensors = read_tensors([place])
    try:
        config = _original_config(tensors)
    except KeyError as error:
        raise UserError(f"checkpoint file {place} has no tensor {error.args[0]!r}") from None
    _check(config, place)
    named = {blip_name(k): tensor for k, tensor in tensors.items() if "position_ids" not in k}
    loaded = load_model(
        BlipForQuestionAnswering, place, device, dtype, config=config, state_dict=named
    )
    return loaded, weights_digest([place])


def blip_name(original: str) -> str:
    """The name in transformers of a tensor of the original checkpoint.

    Only names of the vision model differ: ``visual_encoder.blocks.0.attn.qkv.weight`` becomes
    ``vision_model.encoder.layers.0.self_attn.qkv.weight``.
    """
    if not original.startswith("visual_encoder."):
        return original
    name = original
    for part, ours in VISION_NAMES:
        name = name.replace(part, ours)
    return name


def _original_config(tensors: Mapping[str, Tensor]) -> BlipConfig:
    """The configuration that fits the original tensors. Heads and epsilon leave no trace there."""
    words = tensors["text_encoder.embeddings.word_embeddings.weight"]
    patches = tensors["visual_encoder.patch_embed.proj.weight"]
    side = patches.shape[-1] * int((tensors["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
    feed_forward = "text_encoder.encoder.layer.0.intermediate.dense.weight"
    return BlipConfig(
        text_config=dict(
            vocab_size=words.shape[0],
            hidden_size=words.shape[1],
            encoder_hidden_size=patches.shape[0],
            intermediate_size=tensors[feed_forward].shape[0],
            num_hidden_layers=_layers(tensors, r"text_encoder\.encoder\.layer\.(\d+)\."),
            num_attention_heads=_HEADS,
            max_position_embeddings=tensors[
                "text_encoder.embeddings.position_embeddings.weight"
            ].shape[0],
        ),
        vision_config=dict(
            hidden_size=patches.shape[0],
            intermediate_size=tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_layers(tensors, r"visual_encoder\.blocks\.(\d+)\."),
            num_attention_heads=_HEADS,
            image_size=side,
            patch_size=patches.shape[-1],
            layer_norm_eps=_EPSILON,
        ),
    )


def _layers(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def _check(config: Any, place: Path) -> None:
    text, vision = config.text_config, config.vision_config
    if vision.image_size != SIDE or (SIDE // vision.patch_size) ** 2 + 1 != _POSITIONS:
        positions = (vision.image_size // vision.patch_size) ** 2 + 1
        raise UserError(
            f"checkpoint {place}: {vision.image_size} pixels in {positions} positions, not the"
            f" original's {SIDE} in {_POSITIONS} (the Hub's folder holds a resampled table at 384);"
            f" use {ORIGINAL}"
        )
    for what, found, wanted in (
        ("text_config.num_attention_heads", text.num_attention_heads, _HEADS),
        ("vision_config.layer_norm_eps", vision.layer_norm_eps, _EPSILON),
    ):
        if found != wanted:
            raise UserError(f"checkpoint {place}: {what} is {found}, not the original's {wanted}")
