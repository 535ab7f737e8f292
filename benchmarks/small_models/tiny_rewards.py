"""The four reward models with a few thousand random parameters each, saved as a user brings them.

Every ``save_*`` writes a checkpoint folder in the format of the real one and returns it; larger
configurations give larger models (``benchmarks/rewards.py``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    GitConfig,
    GitForCausalLM,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Tokenizer,
    SwinConfig,
)

from benchmarks.small_models.original_clip import OpenClip
from policy.types import NumeracyItem, Prompt, SpatialInfo
from rewards.models.llava_config import llava_model_config

PROMPTS = (
    Prompt("t:1", "a photo of a car left of a zebra", "spatial", ("car", "zebra"), (),
           SpatialInfo("car", "zebra", "left of")),
    Prompt("t:2", "two rubber gloves", "numeracy", ("rubber glove",), (), None,
           (NumeracyItem("rubber glove", 2),)),
    Prompt("t:3", "a blue bird and a brown chair", "color", ("bird", "chair"),
           ("blue bird", "brown chair")),
    Prompt("t:4", "A butterfly is fluttering in the garden.", "non", ("butterfly", "garden")),
    Prompt("t:5", "a conical ice cream cone", "shape", ("ice cream cone",),
           ("conical ice cream cone",)),
    Prompt("t:6", "happiness", "complex"),
)  # fmt: skip
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def images(number: int, size: int = 48, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Random images of coarse blocks, H W 3."""
    blocks = np.random.default_rng(seed).integers(0, 256, (number, 6, 6, 3), dtype=np.uint8)
    return list(blocks.repeat(size // 6, axis=1).repeat(size // 6, axis=2))


def clip_config(width: int = 32, layers: int = 2, image_size: int = 32, patch: int = 8,
                heads: int = 2) -> CLIPConfig:  # fmt: skip
    """Both towers alike; text is bytes."""
    tower = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                 num_attention_heads=heads, hidden_act="gelu", projection_dim=width)  # fmt: skip
    vocabulary = len(clip_tokenizer())
    return CLIPConfig(
        text_config=tower | dict(vocab_size=vocabulary, bos_token_id=vocabulary - 2,
                                 eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1),
        vision_config=tower | dict(image_size=image_size, patch_size=patch),
        projection_dim=width,
    )  # fmt: skip


def save_clip(folder: Path, config: CLIPConfig | None = None, seed: int = 0) -> Path:
    """PickScore's format."""
    config = config or clip_config()
    _random(CLIPModel, config, seed).save_pretrained(folder)
    return _clip_processor(folder, config)


def save_hps(folder: Path, config: CLIPConfig | None = None, seed: int = 0) -> Path:
    """``HPS_v2.1_compressed.pt`` with open_clip's names, and what ``clip`` names, in one folder."""
    config = config or clip_config()
    config.save_pretrained(folder)
    torch.save(
        {"epoch": 0, "state_dict": open_clip(config, seed).state_dict()},
        folder / "HPS_v2.1_compressed.pt",
    )
    return _clip_processor(folder, config)


def open_clip(config: CLIPConfig, seed: int = 0) -> OpenClip:
    torch.manual_seed(seed)
    return OpenClip(config).eval()


def _clip_processor(folder: Path, config: CLIPConfig) -> Path:
    size = config.vision_config.image_size
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*_BYTES, *(f"{byte}</w>" for byte in _BYTES), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])


def bert_tokenizer() -> BertTokenizer:
    """Letters and a few words, with the special tokens at the ids that GroundingDINO expects."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"##{letter}" for letter in letters), "yes", "no", "-", "car", "bird",
              "zebra"]  # fmt: skip
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012,
             "?": 1029}  # fmt: skip
    free = sorted(set(range(1030)) - set(fixed.values()))
    pieces += [f"[unused{index}]" for index in range(len(free) - len(pieces))]
    return BertTokenizer(vocab=fixed | dict(zip(pieces, free, strict=True)))


def git_config(image_size: int = 32) -> GitConfig:
    size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return GitConfig(
        vision_config=size | dict(image_size=image_size, patch_size=8), vocab_size=1030, **size
    )


def save_git(folder: Path, config: GitConfig | None = None, seed: int = 0) -> Path:
    config = config or git_config()
    image_size = config.vision_config.image_size
    _random(GitForCausalLM, config, seed).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    ).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def grounding_dino_config(width: int = 64) -> GroundingDinoConfig:
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2],
            window_size=4, out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=1030, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32,
        ),
        num_queries=3, d_model=width, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        disable_custom_kernels=True,
    )  # fmt: skip


def save_grounding_dino(folder: Path, config: GroundingDinoConfig | None = None,
                        image_size: int = 64, seed: int = 3) -> Path:  # fmt: skip
    torch.manual_seed(seed)
    model = GroundingDinoForObjectDetection(config or grounding_dino_config())
    with torch.no_grad():  # as they start, all boxes are alike
        for name, parameter in model.named_parameters():
            if "bbox_embed" in name:
                parameter.normal_(std=0.08)
    model.save_pretrained(folder)
    GroundingDinoImageProcessorPil(
        size={"shortest_edge": image_size, "longest_edge": 2 * image_size}
    ).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def save_orm(folder: Path, width: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """LLaVA-NeXT's format: its key names, the tower's dropped layer and head still there."""
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate([*_BYTES, "ye", "yes", "no"])},
        merges=[("y", "e"), ("ye", "s"), ("n", "o")],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(
            dict(
                architectures=["LlavaQwenForCausalLM"], model_type="llava",
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
                max_position_embeddings=1024, rms_norm_eps=1e-6, rope_theta=1e6,
                tie_word_embeddings=False, hidden_act="silu", use_sliding_window=False,
                mm_projector_type="mlp2x_gelu", mm_patch_merge_type="spatial_unpad",
                mm_vision_tower="siglip", image_aspect_ratio="anyres_max_9",
            )
        )
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    (folder / "siglip").mkdir(exist_ok=True)
    (folder / "siglip" / "config.json").write_text(
        json.dumps(dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                        num_attention_heads=2, image_size=24, patch_size=8))
    )  # fmt: skip
    config = llava_model_config(folder).config
    model = _random(LlavaOnevisionForConditionalGeneration, config, seed)
    with torch.no_grad():
        model.lm_head.weight *= 0.05  # temperature 0.3 makes the most of small differences
    tensors = {llava_name(key): value.contiguous() for key, value in model.state_dict().items()}
    tower = "model.vision_tower.vision_tower.vision_model"
    tensors |= {
        key.replace("layers.1", "layers.2"): value.clone()
        for key, value in tensors.items()
        if key.startswith(f"{tower}.encoder.layers.1.")
    }
    tensors[f"{tower}.head.probe"] = torch.zeros(1, 1, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def llava_name(key: str) -> str:
    """LLaVA-NeXT's name of a parameter of transformers' model."""
    for pattern, original in (
        (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
        (r"^model\.language_model\.", "model."),
    ):
        if re.match(pattern, key):
            return re.sub(pattern, original, key)
    return key


def _random(kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Weights large enough that every score differs from every other."""
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model
