"""Translates the config.json of deepseek-ai/Janus-Pro-* into a transformers configuration.

Source: https://github.com/deepseek-ai/Janus, janus/models/ (modeling_vlm.py, vq_model.py,
siglip_vit.py, projector.py). The file only names the vision tower and the image tokenizer. Their
sizes are in that code, and copied here in ``VISION_TOWERS`` and ``IMAGE_TOKENIZERS``. The parts
called ``TINY`` are this project's own, for the checkpoints of ``eg-grpo init-random --like tiny``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from policy.checkpoint.transformers_config import first_bad_key

ARCHITECTURE, MODEL_TYPE = "MultiModalityCausalLM", "multi_modality"
TINY = "eg_grpo_tiny"

# The sections for drawing images. Related models without them have the same names in config.json.
_DRAWING = ("gen_vision_config", "gen_aligner_config", "gen_head_config")

VISION_TOWERS: dict[str, dict[str, Any]] = {
    "siglip_large_patch16_384": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 16,
        "mlp_ratio": 4.0,
    },
    TINY: {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 4,
        "mlp_ratio": 4.0,
    },
}
IMAGE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "VQ-16": {
        "base_channels": 128,
        "channel_multiplier": [1, 1, 2, 2, 4],
        "latent_channels": 256,
        "num_res_blocks": 2,
    },
    TINY: {
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1],
        "latent_channels": 32,
        "num_res_blocks": 0,
    },
}


class _Language(BaseModel):
    """The section ``language_config``. The file leaves out values that equal these defaults."""

    model_config = ConfigDict(extra="allow")
    vocab_size: int = Field(32000, ge=1)
    hidden_size: int = Field(4096, ge=1)
    intermediate_size: int = Field(11008, ge=1)
    num_hidden_layers: int = Field(32, ge=1)
    num_attention_heads: int = Field(32, ge=1)
    max_position_embeddings: int = Field(2048, ge=1)
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: Literal[False] = False  # Janus-Pro's text head is untied


class _VisionParams(BaseModel):
    model_name: str
    image_size: int = Field(336, ge=1)


class _AlignerParams(BaseModel):
    projector_type: Literal["mlp_gelu"]
    n_embed: int = Field(ge=1)
    depth: int = Field(1, ge=1)


class _CodeParams(BaseModel):
    image_token_size: int = Field(ge=1)
    n_embed: int = Field(ge=1)


class _HeadParams(BaseModel):
    n_embed: int = Field(ge=1)
    image_token_embed: int = Field(ge=1)


class _Vision(BaseModel):
    params: _VisionParams


class _Aligner(BaseModel):
    params: _AlignerParams


class _GenVision(BaseModel):
    cls: str
    params: _CodeParams


class _GenHead(BaseModel):
    params: _HeadParams


class _OriginalConfig(BaseModel):
    language_config: _Language
    vision_config: _Vision
    aligner_config: _Aligner
    gen_vision_config: _GenVision
    gen_aligner_config: _Aligner
    gen_head_config: _GenHead


# Keys of ``language_config`` that are not sizes and do not concern LlamaConfig.
_BOOKKEEPING = {"model_type", "torch_dtype", "dtype", "architectures", "_name_or_path"}


def translated_config(original: Mapping[str, Any]) -> JanusConfig:
    """The transformers configuration of the same model, with untied heads.

    Raises ``ValueError`` with one line that names the key at fault.
    """
    if missing := [section for section in _DRAWING if section not in original]:
        raise ValueError(
            f"no {', '.join(missing)}: this model makes no image tokens (DeepSeek-VL and JanusFlow"
            f" are of model_type {MODEL_TYPE} too)"
        )
    try:
        config = _OriginalConfig.model_validate(original)
    except ValidationError as error:
        raise ValueError(first_bad_key(error)) from None
    tower = _known(
        VISION_TOWERS, "vision_config.params.model_name", config.vision_config.params.model_name
    )
    coder = _known(IMAGE_TOKENIZERS, "gen_vision_config.cls", config.gen_vision_config.cls)
    aligner = config.aligner_config.params
    gen_aligner = config.gen_aligner_config.params
    head, codes = config.gen_head_config.params, config.gen_vision_config.params
    if head.image_token_embed != gen_aligner.n_embed:
        # transformers has a single size for the two, so they must be equal.
        raise ValueError(
            f"gen_head_config.params.image_token_embed: {head.image_token_embed} is not"
            f" gen_aligner_config.params.n_embed = {gen_aligner.n_embed}"
        )
    image_size = config.vision_config.params.image_size
    return JanusConfig(
        text_config=_llama(config.language_config),
        vision_config=JanusVisionConfig(
            **tower,
            image_size=image_size,
            projection_dim=aligner.n_embed,
            depth=aligner.depth,
            num_image_tokens=(image_size // tower["patch_size"]) ** 2,
        ),
        vq_config=JanusVQVAEConfig(
            **coder,
            embed_dim=codes.n_embed,
            num_embeddings=codes.image_token_size,
            projection_dim=gen_aligner.n_embed,
            num_hidden_layers=gen_aligner.depth,
            image_token_embed_dim=head.n_embed,
        ),
        tie_word_embeddings=False,
    )


def _llama(language: _Language) -> LlamaConfig:
    settings = {k: v for k, v in language.model_dump().items() if k not in _BOOKKEEPING}
    try:
        return LlamaConfig(**settings)
    except StrictDataclassError as error:
        raise ValueError(f"language_config: {error.__cause__ or error}") from None


def _known(table: dict[str, dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    if name not in table:
        raise ValueError(f"{key}: {name!r} is not known; known: {', '.join(table)}")
    return table[name]
