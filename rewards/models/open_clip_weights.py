"""Translates CLIP weights of open_clip to the names of transformers' ``CLIPModel``.

In open_clip, keys of the vision tower begin with ``visual.`` and keys of the text tower have no
prefix. Query, key and value are one matrix. Features are multiplied by a projection from the right,
so a projection must be transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_EMBEDDINGS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers spells it so
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_LAYER = re.compile(r"(?P<tower>visual\.)?transformer\.resblocks\.(?P<layer>\d+)\.(?P<part>.+)")
_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Left out, because the model of transformers makes these buffers itself.
_BUFFERS = ("attn_mask", "position_ids")


def clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under its name in transformers; raises ``ValueError`` for an unknown key."""
    translated: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] not in _BUFFERS:
            translated |= _translated(key, tensor)
    return translated


def _translated(key: str, tensor: Tensor) -> dict[str, Tensor]:
    if key in _EMBEDDINGS:
        return {_EMBEDDINGS[key]: tensor}
    if key in _PROJECTIONS:
        return {_PROJECTIONS[key]: tensor.T.contiguous()}
    module, _, kind = key.rpartition(".")
    if module in _NORMS:
        return {f"{_NORMS[module]}.{kind}": tensor}
    if (found := _LAYER.fullmatch(key)) is None:
        raise ValueError(f"{key} is not a weight of open_clip's CLIP")
    tower = "vision_model" if found["tower"] else "text_model"
    layer = f"{tower}.encoder.layers.{found['layer']}"
    if found["part"] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = found["part"].rpartition("_")[2]
        return {
            f"{layer}.self_attn.{name}_proj.{kind}": part.contiguous()
            for name, part in zip("qkv", tensor.chunk(3), strict=True)
        }
    module, _, kind = found["part"].rpartition(".")
    if module not in _PARTS:
        raise ValueError(f"{key} is not a weight of open_clip's CLIP")
    return {f"{layer}.{_PARTS[module]}.{kind}": tensor}
