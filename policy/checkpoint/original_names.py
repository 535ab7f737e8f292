"""Names weights of the transformers model as deepseek-ai/Janus-Pro-* does, to write its format.

``original_weights.py`` has the other direction, and the source of the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]

# Each part of a transformers name and what stands in its place, applied in this order.
_TOWER = "vision_model.vision_tower."
_PARTS = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.generation_embeddings.", "gen_embed."),
    ("model.generation_head.proj_out.", "gen_head.output_mlp_projector."),
    ("model.generation_head.", "gen_head."),
    ("model.generation_aligner.fc1.", "gen_aligner.layers.0."),
    ("model.generation_aligner.hidden_layers.0.", "gen_aligner.layers.2."),
    ("model.aligner.fc1.", "aligner.layers.0."),
    ("model.aligner.hidden_layers.0.", "aligner.layers.2."),
    ("model.vision_model.encoder.layers.", f"{_TOWER}blocks."),
    ("model.vision_model.embeddings.patch_embedding.", f"{_TOWER}patch_embed.proj."),
    ("model.vision_model.embeddings.position_embedding.weight", f"{_TOWER}pos_embed"),
    ("model.vision_model.post_layernorm.", f"{_TOWER}norm."),
    (".layer_norm", ".norm"),
    (".self_attn.projection_layer.", ".attn.proj."),
    ("model.vqmodel.", "gen_vision_model."),
    (".encoder.down.", ".encoder.conv_blocks."),
    (".decoder.up.", ".decoder.conv_blocks."),
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
    (".block.", ".res."),
)


def original_names(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Original names, each with the transformers names of the weights that it consists of.

    These are the queries, keys and values of a layer of the vision tower, stacked in this order.
    Any other original weight consists of one.
    """
    for name in names:
        if "model.vision_model." in name and ".self_attn." in name:
            if ".q_proj." in name:
                parts = tuple(name.replace(".q_proj.", f".{part}_proj.") for part in "qkv")
                yield _renamed(name.replace(".self_attn.q_proj.", ".attn.qkv.")), parts
                continue
            if ".k_proj." in name or ".v_proj." in name:
                continue
        yield _renamed(name), (name,)


def only_original(tower: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the weights that the original alone has; Janus does not use them.

    ``tower`` is an entry of ``VISION_TOWERS``.
    """
    width = tower["hidden_size"]
    inner = round(width * tower["mlp_ratio"])
    pool = f"{_TOWER}attn_pool"
    yield f"{pool}.latent", (1, 1, width)
    for layer, inputs, outputs in (
        ("q", width, width),
        ("kv", width, 2 * width),
        ("proj", width, width),
        ("mlp.fc1", width, inner),
        ("mlp.fc2", inner, width),
    ):
        yield f"{pool}.{layer}.weight", (outputs, inputs)
        yield f"{pool}.{layer}.bias", (outputs,)
    yield f"{pool}.norm.weight", (width,)
    yield f"{pool}.norm.bias", (width,)
    yield "gen_vision_model.quantize.codebook_used", (65536,)


def _renamed(name: str) -> str:
    for part, original in _PARTS:
        name = name.replace(part, original)
    return name
