"""Writes folders that describe the reward models at their published sizes, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    GitConfig,
    GroundingDinoConfig,
    GroundingDinoImageProcessorPil,
)

from benchmarks.small_models import tiny_rewards
from benchmarks.small_models.tiny_rewards import PROMPTS, images

__all__ = ["PROMPTS", "described", "images"]


def described(name: str, folder: Path, tiny: bool) -> dict[str, Any]:
    """Write what the reward reads beside weights; its options."""
    folder.mkdir()
    save_file({"none": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    if name == "hps":
        torch.save({"state_dict": {}}, folder / "HPS_v2.1_compressed.pt")
        _clip(folder, tiny)
        return {"model": str(folder), "clip": str(folder)}
    {"git": _git, "grounding_dino": _grounding_dino, "orm": _orm, "clip_score": _clip}[name](
        folder, tiny
    )
    return {"model": str(folder)}


def _clip(folder: Path, tiny: bool) -> None:
    """ViT-H/14, of HPS v2.1 and of PickScore."""
    config = tiny_rewards.clip_config()
    if not tiny:
        config = clip_h14()
    config.save_pretrained(folder)
    _square_pixels(folder, config.vision_config.image_size)
    tiny_rewards.clip_tokenizer().save_pretrained(folder)


def clip_h14() -> CLIPConfig:
    """Its text has the vocabulary's size, and the end where the tokenizer of letters has it."""
    config = tiny_rewards.clip_config(1024, 24, image_size=224, patch=14, heads=16)
    vision = config.vision_config
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 1280, 5120, 32
    config.text_config.vocab_size = 49_408
    return config


def _git(folder: Path, tiny: bool) -> None:
    """ViT-L/14 at 480 pixels and a text decoder of 6 layers."""
    config = tiny_rewards.git_config()
    if not tiny:
        config = git_large()
    config.save_pretrained(folder)
    _square_pixels(folder, config.vision_config.image_size)
    tiny_rewards.bert_tokenizer().save_pretrained(folder)


def git_large() -> GitConfig:
    tower = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                 num_attention_heads=16, image_size=480, patch_size=14)  # fmt: skip
    return GitConfig(vision_config=tower)


def _grounding_dino(folder: Path, tiny: bool) -> None:
    """Swin-T and BERT-base, as the configuration's defaults are."""
    config = tiny_rewards.grounding_dino_config() if tiny else GroundingDinoConfig()
    config.save_pretrained(folder)
    shortest = 64 if tiny else 800
    GroundingDinoImageProcessorPil(
        size={"shortest_edge": shortest, "longest_edge": shortest * 5 // 3}
    ).save_pretrained(folder)
    tiny_rewards.bert_tokenizer().save_pretrained(folder)


ORM_REAL = dict(vocab_size=152_064, hidden_size=3584, intermediate_size=18_944,
                num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                mm_vision_tower="google/siglip-so400m-patch14-384")  # fmt: skip


def _orm(folder: Path, tiny: bool) -> None:
    """Qwen2-7B behind SigLIP so400m."""
    tiny_rewards.save_orm(folder)
    if not tiny:
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(config | ORM_REAL), encoding="utf-8")


def _square_pixels(folder: Path, size: int) -> None:
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
