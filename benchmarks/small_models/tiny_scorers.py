"""The models of the benchmarks' scorers with a few thousand parameters each, saved as users have
them.

Every ``save_*`` writes a checkpoint and returns what a scorer takes as its ``model``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BitImageProcessorPil,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
)

from benchmarks.small_models.tiny_rewards import clip_config, clip_tokenizer
from rewards.scorers.blip_weights import ORIGINAL, VISION_NAMES

_VOCABULARY = 30522  # of BERT, to whose end BLIP adds two tokens


def full_bert_tokenizer() -> BertTokenizer:
    """As many tokens as BERT has, few of them with a meaning; yes and no are at BERT's places."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "?": 1029,
             "no": 2053, "yes": 2748}  # fmt: skip
    pieces = [*letters, *(f"##{letter}" for letter in letters), "red", "book", "blue", "bird"]
    free = [number for number in range(_VOCABULARY) if number not in fixed.values()]
    pieces += [f"[unused{index}]" for index in range(len(free) - len(pieces))]
    return BertTokenizer(vocab=fixed | dict(zip(pieces, free, strict=True)))


def blip_config(side: int = 480, heads: int = 12, epsilon: float = 1e-6) -> BlipConfig:
    return BlipConfig(
        text_config=dict(hidden_size=24, encoder_hidden_size=24, intermediate_size=32,
                         num_hidden_layers=2, num_attention_heads=heads,
                         max_position_embeddings=40),
        vision_config=dict(hidden_size=24, intermediate_size=96, num_hidden_layers=2,
                           num_attention_heads=12, image_size=side, patch_size=16,
                           layer_norm_eps=epsilon),
    )  # fmt: skip


def save_blip(folder: Path, config: BlipConfig | None = None) -> Path:
    """A folder in the format of transformers, with the vocabulary."""
    torch.manual_seed(0)
    BlipForQuestionAnswering(config or blip_config()).save_pretrained(folder)
    full_bert_tokenizer().save_pretrained(folder)
    return folder


def original_blip_shapes() -> dict[str, torch.Size]:
    """The shapes of the tiny model's tensors under the original's names."""
    shapes = {}
    for key, tensor in BlipForQuestionAnswering(blip_config()).state_dict().items():
        name = key
        if name.startswith("vision_model."):
            for part, ours in reversed(VISION_NAMES):
                name = name.replace(ours, part)
        shapes[name] = tensor.shape
    return shapes


def save_original_blip(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The original's file with the tensors under the original's names, and the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors, "epoch": 1}, folder / ORIGINAL)
    full_bert_tokenizer().save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    size = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = Blip2Config(
        vision_config=size | dict(image_size=28, patch_size=14),
        qformer_config=size
        | dict(vocab_size=30523, encoder_hidden_size=24, use_qformer_text_input=True,
               cross_attention_frequency=2, max_position_embeddings=64),
        text_config=dict(model_type="opt", hidden_size=16, ffn_dim=16, num_hidden_layers=1,
                         num_attention_heads=1, vocab_size=32, word_embed_proj_dim=16),
        num_query_tokens=4, image_text_hidden_size=8, image_token_index=None,
    )  # fmt: skip
    torch.manual_seed(0)
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    full_bert_tokenizer().save_pretrained(folder)
    return folder


def save_openai_clip(folder: Path, activation: str = "quick_gelu") -> Path:
    config = clip_config()
    config.text_config.hidden_act = config.vision_config.hidden_act = activation
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                          patch_size=14)  # fmt: skip
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder
