"""Random Janus checkpoints of the sizes that are measured.

They draw noise, but cost as much time and memory as a trained model of their size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from policy.checkpoint.original_config import IMAGE_TOKENIZERS, VISION_TOWERS
from policy.encoding import BEGIN_OF_IMAGE, SpecialIds
from policy.janus import JanusPolicy
from policy.types import Prompt

# Layers, hidden size, attention heads, MLP size and words; all draw 24 x 24 of 16,384 codes.
SIZES = {
    "wide": (4, 256, 4, 704, 4096),
    "wider": (8, 512, 8, 1408, 4096),
    "1b": (24, 2048, 16, 5632, 102_400),
    "7b": (30, 4096, 32, 11_008, 102_400),
}
GRID, CODES = 24, 16_384
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", BEGIN_OF_IMAGE)
_SEED = 0


def random_config(size: str) -> JanusConfig:
    """The configuration of a size in ``SIZES``; "1b" and "7b" are those of Janus-Pro."""
    layers, hidden, heads, mlp, words = SIZES[size]
    text = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    # These two are for the token loop: the decoder, the same for all, is as small as can be.
    small = size in ("wide", "wider")
    tower = (
        dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=4)
        if small
        else VISION_TOWERS["siglip_large_patch16_384"]
    )
    coder = (
        dict(base_channels=32, channel_multiplier=[1, 1, 1], latent_channels=32, num_res_blocks=0)
        if small
        else IMAGE_TOKENIZERS["VQ-16"]
    )
    return JanusConfig(
        text_config=text,
        vision_config=JanusVisionConfig(
            **tower, image_size=GRID * tower["patch_size"], projection_dim=hidden
        ),
        vq_config=JanusVQVAEConfig(
            **coder,
            embed_dim=8,
            num_embeddings=CODES,
            num_patches=GRID,
            projection_dim=hidden,
            image_token_embed_dim=hidden,
        ),
        tie_word_embeddings=False,
    )


def random_policy(size: str, dtype: torch.dtype, device: str) -> tuple[JanusPolicy, SpecialIds]:
    """A policy of a size in ``SIZES`` made where it works, with no checkpoint in between."""
    torch.manual_seed(_SEED)
    with torch.device(device):
        model = JanusForConditionalGeneration._from_config(random_config(size), dtype=dtype)
    bos, eos, pad, begin = map(_SPECIAL.index, ("<bos>", "<eos>", "<pad>", BEGIN_OF_IMAGE))
    return JanusPolicy(model), SpecialIds(bos, eos, pad, begin)


def save_random_checkpoint(size: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random checkpoint of a size in ``SIZES``, with a word-level tokenizer."""
    torch.manual_seed(_SEED)
    model = JanusForConditionalGeneration(random_config(size))
    model.to(dtype).save_pretrained(folder)
    random_tokenizer(size).save_pretrained(folder)
    return folder


def random_tokenizer(size: str) -> PreTrainedTokenizerFast:
    """A word for every id of a size in ``SIZES``."""
    words = [*_SPECIAL, *(f"w{index}" for index in range(SIZES[size][-1] - len(_SPECIAL)))]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=[BEGIN_OF_IMAGE],
        clean_up_tokenization_spaces=False,
    )


def random_prompts(count: int) -> list[Prompt]:
    """Prompts of unequal length, made of the first words of every random checkpoint."""
    return [
        Prompt(
            id=f"random:{index}",
            text=" ".join(f"w{index + place}" for place in range(6 + index % 5)),
            task_type="random",
        )
        for index in range(count)
    ]
