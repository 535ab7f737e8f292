"""Renames the weights of deepseek-ai/Janus-Pro-* to the names of the transformers model.

Source: https://github.com/deepseek-ai/Janus, janus/models/. The original keys are the names of its
modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Each rule is a pattern and the new names; {0}, {1}, ... stand for the groups of the pattern.
# A rule without names leaves the weight out. Every original key matches one rule.
_BLOCK = r"vision_model\.vision_tower\.blocks\.(\d+)"
_LAYER = "model.vision_model.encoder.layers.{0}"
_CODER = r"gen_vision_model\.(encoder|decoder)"
_WEIGHT = r"(weight|bias)"
_RULES = tuple(
    (re.compile(pattern), names)
    for pattern, *names in (
        (r"language_model\.model\.(.+)", "model.language_model.{0}"),
        (r"language_model\.lm_head\.weight", "lm_head.weight"),
        (r"gen_embed\.weight", "model.generation_embeddings.weight"),
        (rf"gen_head\.output_mlp_projector\.{_WEIGHT}", "model.generation_head.proj_out.{0}"),
        (rf"gen_head\.vision_head\.{_WEIGHT}", "model.generation_head.vision_head.{0}"),
        (rf"gen_aligner\.layers\.0\.{_WEIGHT}", "model.generation_aligner.fc1.{0}"),
        (rf"aligner\.layers\.0\.{_WEIGHT}", "model.aligner.fc1.{0}"),
        # Image tokenizer
        (r"gen_vision_model\.quantize\.codebook_used",),  # left out: a training statistic
        (
            r"gen_vision_model\.(quantize\.embedding|quant_conv|post_quant_conv)\.(.+)",
            "model.vqmodel.{0}.{1}",
        ),
        (rf"{_CODER}\.(conv_in|norm_out|conv_out)\.(.+)", "model.vqmodel.{0}.{1}.{2}"),
        (rf"{_CODER}\.mid\.0\.(.+)", "model.vqmodel.{0}.mid.block_1.{1}"),
        (rf"{_CODER}\.mid\.1\.(.+)", "model.vqmodel.{0}.mid.attn_1.{1}"),
        (rf"{_CODER}\.mid\.2\.(.+)", "model.vqmodel.{0}.mid.block_2.{1}"),
        (
            r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.(.+)",
            "model.vqmodel.encoder.down.{0}.block.{1}",
        ),
        (
            r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.(attn|downsample)\.(.+)",
            "model.vqmodel.encoder.down.{0}.{1}.{2}",
        ),
        (
            r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.(.+)",
            "model.vqmodel.decoder.up.{0}.block.{1}",
        ),
        (
            r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.(attn|upsample)\.(.+)",
            "model.vqmodel.decoder.up.{0}.{1}.{2}",
        ),
        # Vision tower
        (r"vision_model\.vision_tower\.attn_pool\..+",),  # left out: Janus does not use it
        (
            r"vision_model\.vision_tower\.pos_embed",
            "model.vision_model.embeddings.position_embedding.weight",
        ),
        (
            rf"vision_model\.vision_tower\.patch_embed\.proj\.{_WEIGHT}",
            "model.vision_model.embeddings.patch_embedding.{0}",
        ),
        (rf"vision_model\.vision_tower\.norm\.{_WEIGHT}", "model.vision_model.post_layernorm.{0}"),
        (rf"{_BLOCK}\.norm([12])\.{_WEIGHT}", _LAYER + ".layer_norm{1}.{2}"),
        (rf"{_BLOCK}\.mlp\.(fc[12])\.{_WEIGHT}", _LAYER + ".mlp.{1}.{2}"),
        (rf"{_BLOCK}\.attn\.proj\.{_WEIGHT}", _LAYER + ".self_attn.projection_layer.{1}"),
        (
            rf"{_BLOCK}\.attn\.qkv\.{_WEIGHT}",
            *(_LAYER + f".self_attn.{part}_proj.{{1}}" for part in "qkv"),
        ),
    )
)
_DEEPER_ALIGNER = re.compile(rf"(gen_)?aligner\.layers\.(\d+)\.{_WEIGHT}")


def translated_names(key: str) -> tuple[str, ...] | None:
    """The transformers keys for an original key; ``None`` if Janus has no such key.

    A weight that is left out gives no key, a joint qkv weight gives three, any other gives one.
    """
    for pattern, names in _RULES:
        if match := pattern.fullmatch(key):
            return tuple(name.format(*match.groups()) for name in names)
    match = _DEEPER_ALIGNER.fullmatch(key)
    if match and int(match[2]) % 2 == 0:  # odd layers are activations and have no weights
        module = "generation_aligner" if match[1] else "aligner"
        return (f"model.{module}.hidden_layers.{int(match[2]) // 2 - 1}.{match[3]}",)
    return None


def translated_tensors(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the transformers model. Tensors on the meta device, without data, work too.

    Raises ``ValueError`` with one line that names the first key that Janus does not have. It also
    raises when the text head shares its memory with the embeddings.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in original.items():
        names = translated_names(key)
        if names is None:
            raise ValueError(f"unexpected key {key}")
        if key == "vision_model.vision_tower.pos_embed":
            tensor = tensor.squeeze(0)
        if len(names) == 3:
            # Each part gets memory of its own, because tensors that share memory cannot be saved.
            parts = [part.clone() for part in tensor.chunk(3)]
            tensors |= zip(names, parts, strict=False)
        elif names:
            tensors[names[0]] = tensor
    head, embedding = (
        tensors.get(name) for name in ("lm_head.weight", "model.language_model.embed_tokens.weight")
    )
    if head is not None and embedding is not None and _same_memory(head, embedding):
        raise ValueError("lm_head is tied to embed_tokens")
    return tensors


def _same_memory(left: Tensor, right: Tensor) -> bool:
    return left.device != torch.device("meta") and left.data_ptr() == right.data_ptr()
