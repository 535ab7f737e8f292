"""Translates a LLaVA-NeXT checkpoint's configuration for transformers' LLaVA-OneVision.

The original file describes the language model, but only names the vision tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

from policy.errors import UserError
from policy.inner_path import stays_inside
from policy.text_files import read_json

NEEDED = ("config.json", "tokenizer_config.json")
# Sizes of the vision towers, from their own repositories.
_TOWERS = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
_TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)
_EXPECTED = {"mm_projector_type": "mlp2x_gelu", "hidden_act": "silu", "use_sliding_window": False}


@dataclass(frozen=True)
class LlavaConfig:
    """A configuration, and what else the weights need.

    ``unused_keys`` are beginnings of keys that some checkpoints hold and no score depends on.
    """

    config: LlavaOnevisionConfig
    newline_after_image: bool
    unused_keys: tuple[str, ...]


def llava_model_config(folder: Path) -> LlavaConfig:
    """Read ``folder/config.json``. Raises ``UserError`` for a model that this project cannot run.

    ``mm_vision_tower`` is a Hub id in ``_TOWERS``, or a folder inside ``folder`` with the
    ``config.json`` of a SigLIP vision model.
    """
    file = folder / "config.json"
    try:
        given: dict[str, Any] = read_json(file)
        for key, expected in _EXPECTED.items():
            if given[key] != expected:
                raise ValueError(f"{key} is {given[key]!r}, not {expected!r}")
        text = Qwen2Config(**{key: given[key] for key in _TEXT})
        tower = _tower(folder, str(given["mm_vision_tower"]))
    except KeyError as error:
        raise UserError(f"{file}: key {error.args[0]!r} is missing") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    layers = tower.pop("num_hidden_layers")
    # LLaVA takes the features before the tower's last layer, so it drops that layer.
    tower |= {"num_hidden_layers": layers - 1, "vision_use_head": False}
    vision = SiglipVisionConfig(**tower)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
    )
    return LlavaConfig(
        config,
        newline_after_image="unpad" in given.get("mm_patch_merge_type", "flat"),
        unused_keys=tuple(
            f"model.vision_tower.{part}"
            for part in (f"encoder.layers.{layers - 1}.", "head.", "post_layernorm.")
        ),
    )


def _tower(folder: Path, name: str) -> dict[str, Any]:
    if name in _TOWERS:
        return dict(_TOWERS[name])
    file = folder / name / "config.json"
    if not stays_inside(name) or not file.is_file():
        raise ValueError(f"mm_vision_tower {name!r} is none of {', '.join(_TOWERS)}")
    described = read_json(file)
    return {key: described[key] for key in _TOWERS["google/siglip-so400m-patch14-384"]}
