"""The sizes of the published checkpoints, known without a download.

The sizes of Janus-Pro-7B are from its config.json, quoted in
https://github.com/sgl-project/sglang/issues/4534. The language model of Janus-Pro-1B is taken to
have the sizes of DeepSeek-VL-1.3B, which are in the converter of transformers. All its other sizes
are taken to be those of the 7B. They were not compared with the config.json of Janus-Pro-1B.
"""

from __future__ import annotations

from typing import Any

from transformers import JanusConfig

from policy.checkpoint.original_config import (
    MODEL_TYPE,
    VISION_TOWERS,
    translated_config,
)

_CODE_SIZE = 8  # numbers that the image tokenizer has for each image token
_LANGUAGE: dict[str, dict[str, int]] = {
    "Janus-Pro-1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "Janus-Pro-7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
    },
}
# Both owners publish these models on the Hub, each in one of the two formats.
_OWNERS = ("deepseek-community", "deepseek-ai")


def public_config(hub_id: str) -> JanusConfig | None:
    """The configuration of a published checkpoint, by its Hub id; None for any other string.

    An id with a revision also gives None, because a revision may have other sizes.
    """
    owner, _, name = hub_id.partition("/")
    if owner not in _OWNERS or name not in _LANGUAGE:
        return None
    return translated_config(public_original_config(name))


def public_original_config(name: str) -> dict[str, Any]:
    """The config.json of ``Janus-Pro-1B`` or ``Janus-Pro-7B`` in the original format."""
    language = {"vocab_size": 102400, "max_position_embeddings": 16384, **_LANGUAGE[name]}
    return original_config(
        language, "siglip_large_patch16_384", "VQ-16", image_size=384, codes=16384
    )


def original_config(
    language: dict[str, int], tower: str, coder: str, image_size: int, codes: int
) -> dict[str, Any]:
    """A config.json in the original format, of a model whose aligners are as Janus-Pro's.

    ``tower`` and ``coder`` are names of ``VISION_TOWERS`` and ``IMAGE_TOKENIZERS``, ``image_size``
    is in pixels and ``codes`` is the number of different image tokens.
    """
    hidden = language["hidden_size"]
    return {
        "model_type": MODEL_TYPE,
        "torch_dtype": "bfloat16",
        "language_config": {"model_type": "llama", "torch_dtype": "bfloat16", **language},
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {"image_size": image_size, "model_name": tower, "select_layer": -1},
        },
        "aligner_config": _aligner(VISION_TOWERS[tower]["hidden_size"], hidden),
        "gen_vision_config": {
            "cls": coder,
            "params": {"image_token_size": codes, "n_embed": _CODE_SIZE},
        },
        "gen_aligner_config": _aligner(_CODE_SIZE, hidden),
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": hidden, "image_token_size": codes, "n_embed": hidden},
        },
    }


def _aligner(inputs: int, hidden: int) -> dict[str, Any]:
    params = {"depth": 2, "input_dim": inputs, "n_embed": hidden, "projector_type": "mlp_gelu"}
    return {"cls": "MlpProjector", "params": params}
