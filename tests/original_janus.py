"""The original Janus-Pro format as tests need it: its keys and shapes, and tiny folders of it.

The keys follow from the module structure of https://github.com/deepseek-ai/Janus
(janus/models/); they are written down here from the sizes alone, independently of the mapping
under test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.small_models.random_janus import tiny_policy, tiny_tokenizer
from policy.checkpoint.original_config import IMAGE_TOKENIZERS, VISION_TOWERS

Shape = tuple[int, ...]
TOWERS = {
    "siglip_large_patch16_384": {"width": 1024, "layers": 24, "patch": 16, "mlp": 4096},
    "tiny_tower": {"width": 32, "layers": 1, "patch": 4, "mlp": 128},
}
CODERS = {
    "VQ-16": {"channels": 128, "multiplier": (1, 1, 2, 2, 4), "latent": 256, "blocks": 2},
    "tiny_coder": {"channels": 32, "multiplier": (1, 1, 1), "latent": 32, "blocks": 0},
}


def original_config(
    language: dict[str, Any],
    hidden: int,
    image_size: int = 384,
    codes: int = 16384,
    tower: str = "siglip_large_patch16_384",
    coder: str = "VQ-16",
) -> dict[str, Any]:
    """A config.json in the original format; as in the real 7B's, no ``architectures``."""

    def aligner(inputs: int) -> dict[str, Any]:
        params = {
            "depth": 2,
            "input_dim": inputs,
            "n_embed": hidden,
            "projector_type": "mlp_gelu",
        }
        return {"cls": "MlpProjector", "params": params}

    return {
        "model_type": "multi_modality",
        "aligner_config": aligner(TOWERS[tower]["width"]),
        "gen_aligner_config": aligner(8),
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": hidden, "image_token_size": codes, "n_embed": hidden},
        },
        "gen_vision_config": {"cls": coder, "params": {"image_token_size": codes, "n_embed": 8}},
        "language_config": {"model_type": "llama", "torch_dtype": "bfloat16", **language},
        "torch_dtype": "bfloat16",
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {"image_size": image_size, "model_name": tower, "select_layer": -1},
        },
    }


# Every key and number of the real file, as https://github.com/sgl-project/sglang/issues/4534 shows
# it: sizes that LlamaConfig has by default are left out, and so is ``architectures``.
JANUS_PRO_7B: dict[str, Any] = {
    "aligner_config": {
        "cls": "MlpProjector",
        "model_type": "aligner",
        "params": {"depth": 2, "input_dim": 1024, "n_embed": 4096, "projector_type": "mlp_gelu"},
    },
    "gen_aligner_config": {
        "cls": "MlpProjector",
        "model_type": "gen_aligner",
        "params": {"depth": 2, "input_dim": 8, "n_embed": 4096, "projector_type": "mlp_gelu"},
    },
    "gen_head_config": {
        "cls": "vision_head",
        "model_type": "gen_head",
        "params": {"image_token_embed": 4096, "image_token_size": 16384, "n_embed": 4096},
    },
    "gen_vision_config": {
        "cls": "VQ-16",
        "model_type": "gen_vision",
        "params": {"image_token_size": 16384, "n_embed": 8},
    },
    "language_config": {
        "max_position_embeddings": 16384,
        "model_type": "llama",
        "num_hidden_layers": 30,
        "torch_dtype": "bfloat16",
        "vocab_size": 102400,
    },
    "model_type": "multi_modality",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "vision_config": {
        "cls": "CLIPVisionTower",
        "model_type": "vision",
        "params": {
            "image_size": 384,
            "model_name": "siglip_large_patch16_384",
            "select_feature": "same",
            "select_layer": -1,
        },
    },
}
JANUS_PRO_1B = original_config(
    {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 16384,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "vocab_size": 102400,
    },
    2048,
)


def original_shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Every key of the original weight files with its shape."""
    tower = TOWERS[config["vision_config"]["params"]["model_name"]]
    patches = (config["vision_config"]["params"]["image_size"] // tower["patch"]) ** 2
    hidden = config["gen_head_config"]["params"]["n_embed"]
    codes = config["gen_vision_config"]["params"]["image_token_size"]
    return dict(
        [
            *_language(config["language_config"]),
            *_vision(tower, patches),
            *_linear("aligner.layers.0", tower["width"], hidden),
            *_linear("aligner.layers.2", hidden, hidden),
            *_linear("gen_aligner.layers.0", 8, hidden),
            *_linear("gen_aligner.layers.2", hidden, hidden),
            *_linear("gen_head.output_mlp_projector", hidden, hidden),
            *_linear("gen_head.vision_head", hidden, codes),
            ("gen_embed.weight", (codes, 8)),
            *_coder(CODERS[config["gen_vision_config"]["cls"]], codes),
        ]
    )


def _language(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner = config.get("hidden_size", 4096), config.get("intermediate_size", 11008)
    root = "language_model.model"
    yield f"{root}.embed_tokens.weight", (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"{root}.layers.{layer}"
        for part in "qkvo":
            yield f"{block}.self_attn.{part}_proj.weight", (width, width)
        yield f"{block}.mlp.gate_proj.weight", (inner, width)
        yield f"{block}.mlp.up_proj.weight", (inner, width)
        yield f"{block}.mlp.down_proj.weight", (width, inner)
        yield f"{block}.input_layernorm.weight", (width,)
        yield f"{block}.post_attention_layernorm.weight", (width,)
    yield f"{root}.norm.weight", (width,)
    yield "language_model.lm_head.weight", (config["vocab_size"], width)


def _vision(tower: dict[str, int], patches: int) -> Iterator[tuple[str, Shape]]:
    root, width, inner = "vision_model.vision_tower", tower["width"], tower["mlp"]
    yield f"{root}.pos_embed", (1, patches, width)
    yield from _conv(f"{root}.patch_embed.proj", 3, width, tower["patch"])
    for layer in range(tower["layers"]):
        block = f"{root}.blocks.{layer}"
        yield from _norm(f"{block}.norm1", width)
        yield from _linear(f"{block}.attn.qkv", width, 3 * width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _norm(f"{block}.norm2", width)
        yield from _linear(f"{block}.mlp.fc1", width, inner)
        yield from _linear(f"{block}.mlp.fc2", inner, width)
    yield from _norm(f"{root}.norm", width)
    pool = f"{root}.attn_pool"
    yield f"{pool}.latent", (1, 1, width)
    yield from _linear(f"{pool}.q", width, width)
    yield from _linear(f"{pool}.kv", width, 2 * width)
    yield from _linear(f"{pool}.proj", width, width)
    yield from _norm(f"{pool}.norm", width)
    yield from _linear(f"{pool}.mlp.fc1", width, inner)
    yield from _linear(f"{pool}.mlp.fc2", inner, width)


def _coder(coder: dict[str, Any], codes: int) -> Iterator[tuple[str, Shape]]:
    root, latent, blocks = "gen_vision_model", coder["latent"], coder["blocks"]
    widths = [coder["channels"] * factor for factor in coder["multiplier"]]
    last = len(widths) - 1

    def level(name: str, before: int, width: int, count: int, attends: bool) -> Any:
        for block in range(count):
            yield from _residual(f"{name}.res.{block}", width if block else before, width)
            if attends:
                yield from _attention(f"{name}.attn.{block}", width)

    def middle(name: str) -> Any:
        yield from _residual(f"{name}.mid.0", widths[-1], widths[-1])
        yield from _attention(f"{name}.mid.1", widths[-1])
        yield from _residual(f"{name}.mid.2", widths[-1], widths[-1])

    encoder, decoder = f"{root}.encoder", f"{root}.decoder"
    yield from _conv(f"{encoder}.conv_in", 3, widths[0], 3)
    for index, width in enumerate(widths):
        name, before = f"{encoder}.conv_blocks.{index}", widths[max(index - 1, 0)]
        yield from level(name, before, width, blocks, index == last)
        if index < last:
            yield from _conv(f"{name}.downsample.conv", width, width, 3)
    yield from middle(encoder)
    yield from _norm(f"{encoder}.norm_out", widths[-1])
    yield from _conv(f"{encoder}.conv_out", widths[-1], latent, 3)

    yield from _conv(f"{decoder}.conv_in", latent, widths[-1], 3)
    yield from middle(decoder)
    for index, width in enumerate(reversed(widths)):
        name, before = f"{decoder}.conv_blocks.{index}", widths[min(last - index + 1, last)]
        yield from level(name, before, width, blocks + 1, index == 0)
        if index < last:
            yield from _conv(f"{name}.upsample.conv", width, width, 3)
    yield from _norm(f"{decoder}.norm_out", widths[0])
    yield from _conv(f"{decoder}.conv_out", widths[0], 3, 3)

    yield f"{root}.quantize.embedding.weight", (codes, 8)
    yield f"{root}.quantize.codebook_used", (65536,)
    yield from _conv(f"{root}.quant_conv", latent, 8, 1)
    yield from _conv(f"{root}.post_quant_conv", 8, latent, 1)


def _residual(name: str, before: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", before, width, 3)
    yield from _norm(f"{name}.norm2", width)
    yield from _conv(f"{name}.conv2", width, width, 3)
    if before != width:
        yield from _conv(f"{name}.nin_shortcut", before, width, 1)


def _attention(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.{part}", width, width, 1)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _conv(name: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


# A tiny folder

TINY = original_config(
    {
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": len(tiny_tokenizer()),
    },
    32,
    image_size=16,
    codes=32,
    tower="tiny_tower",
    coder="tiny_coder",
)
_EMBED, _TOWER = "model.vision_model.embeddings.", "vision_model.vision_tower."
_BACK = (  # transformers -> original, in order
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.generation_embeddings.", "gen_embed."),
    ("model.generation_head.proj_out.", "gen_head.output_mlp_projector."),
    ("model.generation_head.", "gen_head."),
    ("model.generation_aligner.fc1.", "gen_aligner.layers.0."),
    ("model.generation_aligner.hidden_layers.0.", "gen_aligner.layers.2."),
    ("model.aligner.fc1.", "aligner.layers.0."),
    ("model.aligner.hidden_layers.0.", "aligner.layers.2."),
    ("model.vision_model.encoder.layers.", _TOWER + "blocks."),
    (_EMBED + "patch_embedding.", _TOWER + "patch_embed.proj."),
    (_EMBED + "position_embedding.weight", _TOWER + "pos_embed"),
    ("model.vision_model.post_layernorm.", _TOWER + "norm."),
    (".layer_norm", ".norm"),
    (".self_attn.projection_layer.", ".attn.proj."),
    ("model.vqmodel.", "gen_vision_model."),
    (".encoder.down.", ".encoder.conv_blocks."),
    (".decoder.up.", ".decoder.conv_blocks."),
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
    (".block.", ".res."),
)  # fmt: skip


def name_tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format names its parts; the real ones are too large to write in a test."""
    tower = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=4)
    monkeypatch.setitem(VISION_TOWERS, "tiny_tower", tower)
    coder = dict(
        base_channels=32, channel_multiplier=[1, 1, 1], latent_channels=32, num_res_blocks=0
    )
    monkeypatch.setitem(IMAGE_TOKENIZERS, "tiny_coder", coder)


def as_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict under the original's names, with what only the original has."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key
        for new, old in _BACK:
            name = name.replace(new, old)
        if ".self_attn." in name and name.startswith("vision_model."):
            if ".q_proj." in name:
                parts = [state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
                tensors[name.replace(".self_attn.q_proj.", ".attn.qkv.")] = torch.cat(parts)
            continue
        tensors[name] = tensor.unsqueeze(0) if name.endswith("pos_embed") else tensor.clone()
    for key, shape in original_shapes(TINY).items():
        if ".attn_pool." in key or key.endswith("codebook_used"):
            tensors[key] = torch.ones(shape)
    return tensors


def save_original(folder: Path, file_format: str, seed: int = 0, **extra: Any) -> Path:
    """The tiny policy in the original format: ``bin``, ``bin-shards`` or ``safetensors-shards``.

    ``extra`` goes into config.json.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY | extra))
    tiny_tokenizer().save_pretrained(folder)
    write_weights(folder, as_original(tiny_policy(seed).model.state_dict()), file_format)
    return folder


def write_weights(folder: Path, tensors: dict[str, Tensor], file_format: str) -> None:
    """Write the weight files, with an index when they are two."""
    kind, *sharded = file_format.split("-")
    stem, suffix = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    keys = sorted(tensors)
    shards = [keys[::2], keys[1::2]] if sharded else [keys]
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        part = f"-{number:05}-of-{len(shards):05}" if sharded else ""
        name = f"{stem}{part}.{suffix}"
        weight_map |= dict.fromkeys(shard, name)
        chosen = {key: tensors[key] for key in shard}
        if kind == "bin":
            torch.save(chosen, folder / name)
        else:
            save_file(chosen, folder / name, metadata={"format": "pt"})
    if sharded:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
