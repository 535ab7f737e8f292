"""Reads the config.json of the transformers format: deepseek-community/Janus-Pro-* and our own.

Only the values that this project relies on are checked here. transformers checks the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from transformers import JanusConfig, JanusForConditionalGeneration

from policy.errors import UserError


class _Text(BaseModel):
    model_type: Literal["llama"] = "llama"  # the vLLM model and the memory plan assume Llama


class _Vision(BaseModel):
    # A single number, so images are square.
    image_size: int = Field(384, ge=1, strict=True)
    patch_size: int = Field(16, ge=1, strict=True)


class _Config(BaseModel):
    text_config: _Text = _Text()
    vision_config: _Vision = _Vision()


def untied_config(written: Mapping[str, Any]) -> JanusConfig:
    """The configuration in a config.json, with an untied text head whatever the file says.

    Janus-Pro is untied. The published files do not say so, and transformers takes that as tied. A
    checkpoint that really has tied weights is refused later, when its weights are checked. Raises
    ``ValueError`` or ``StrictDataclassError`` when the file does not describe a Janus model.
    """
    try:
        _Config.model_validate(written)
    except ValidationError as error:
        raise ValueError(first_bad_key(error)) from None
    config = JanusConfig.from_dict(dict(written))
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    return config


def built_on_meta(config: JanusConfig, where: str) -> JanusForConditionalGeneration:
    """The model on the meta device, without weights.

    Raises ``UserError`` when no model can be built. ``where`` tells the user where the
    configuration is written.
    """
    try:
        with torch.device("meta"):
            return JanusForConditionalGeneration(config)
    except Exception as error:  # a wrong value may raise any error, where transformers uses it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{where}: no model can be built: {reason}") from None


def first_bad_key(error: ValidationError) -> str:
    """One line that names the first key at fault."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
