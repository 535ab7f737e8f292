"""The sizes of the published checkpoints, known without a download.

The sizes of Janus-Pro-7B are from its config.json, quoted in
https://github.com/sgl-project/sglang/issues/4534. The language model of Janus-Pro-1B is taken to
have the sizes of DeepSeek-VL-1.3B, which are in the converter of transformers. All its other sizes
are taken to be those of the 7B. They were not compared with the config.json of Janus-Pro-1B.
"""

from __future__ import annotations

from typing import Any

from transformers import JanusConfig

from policy.checkpoint.original_config import translated_config

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
    language = _LANGUAGE[name]
    hidden = language["hidden_size"]
    codes: dict[str, Any] = {"image_token_size": 16384}
    aligner: dict[str, Any] = {"projector_type": "mlp_gelu", "n_embed": hidden, "depth": 2}
    tower = {"model_name": "siglip_large_patch16_384", "image_size": 384}
    return translated_config(
        {
            "language_config": {"vocab_size": 102400, "max_position_embeddings": 16384, **language},
            "vision_config": {"params": tower},
            "aligner_config": {"params": aligner},
            "gen_vision_config": {"cls": "VQ-16", "params": codes | {"n_embed": 8}},
            "gen_aligner_config": {"params": aligner},
            "gen_head_config": {"params": {"n_embed": hidden, "image_token_embed": hidden}},
        }
    )
