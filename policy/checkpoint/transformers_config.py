"""The config.json of deepseek-community/Janus-Pro-* and of what this project writes.

Only what this project relies on is checked here; transformers checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from transformers import JanusConfig, JanusForConditionalGeneration

from policy.errors import UserError


class _Text(BaseModel):
    model_type: Literal["llama"] = "llama"  # as vLLM's model and the memory plan take it to be


class _Vision(BaseModel):
    # One number: images are square.
    image_size: int = Field(384, ge=1, strict=True)
    patch_size: int = Field(16, ge=1, strict=True)


class _Config(BaseModel):
    text_config: _Text = _Text()
    vision_config: _Vision = _Vision()


def untied_config(written: Mapping[str, Any]) -> JanusConfig:
    """The configuration with untied heads, whatever the file says.

    Janus-Pro is untied, but the published files do not say so and transformers takes that for
    tied. A file whose weights are tied is refused by them. Raises ``ValueError`` or
    ``StrictDataclassError`` when the file cannot be such a model's.
    """
    try:
        _Config.model_validate(written)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    config = JanusConfig.from_dict(dict(written))
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    return config


def built_on_meta(config: JanusConfig, where: str) -> JanusForConditionalGeneration:
    """The model without its weights; raises ``UserError``, which names ``where`` the configuration
    stands, when no model can be built from it."""
    try:
        with torch.device("meta"):
            return JanusForConditionalGeneration(config)
    except Exception as error:  # a wrong value surfaces wherever transformers first uses it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{where}: no model can be built: {reason}") from None


def first_problem(error: ValidationError) -> str:
    """One line that names the first key at fault."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
