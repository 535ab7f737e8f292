"""A random Janus of a few thousand parameters, with a tokenizer: the smallest real policy."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.templates import template_named
from policy.types import Prompt

WORDS = "visualize a red blue circle square above small large at the top left and".split()
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<begin_of_image>", "<|User|>", "<|Assistant|>"]
PROMPTS = (
    Prompt(id="tiny:1", text="a red circle", task_type="color"),
    Prompt(id="tiny:2", text="a blue square above a small red circle", task_type="spatial"),
    Prompt(id="tiny:3", text="a large blue circle at the top left", task_type="spatial"),
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, ":", '"', ".", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip


def tiny_encoder() -> PromptEncoder:
    return PromptEncoder(tiny_tokenizer(), template_named("shapes"))


def tiny_policy(seed: int = 0, layers: int = 2, head_dim: int = 16) -> JanusPolicy:
    """4 x 4 image tokens of 32 codes, 16 px images, hidden 32; weights large enough to matter."""
    torch.manual_seed(seed)
    vision = dict(image_size=16, patch_size=4, hidden_size=32, num_hidden_layers=1,
                  num_attention_heads=2, projection_dim=32)  # fmt: skip
    codes = dict(embed_dim=8, num_embeddings=32, latent_channels=32, base_channels=32,
                 channel_multiplier=[1, 1, 1], num_res_blocks=0, num_patches=4,
                 projection_dim=32, image_token_embed_dim=32)  # fmt: skip
    text = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=len(tiny_tokenizer()), max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        head_dim=head_dim,
    )  # fmt: skip
    config = JanusConfig(
        text_config=text,
        vision_config=JanusVisionConfig(**vision),
        vq_config=JanusVQVAEConfig(**codes),
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "vqmodel" not in name:
                parameter.normal_(std=0.3)
    return JanusPolicy(model)


def save_tiny_checkpoint(folder: Path, seed: int = 0, head_dim: int = 16) -> Path:
    """A checkpoint folder as a user would bring one."""
    tiny_policy(seed, head_dim=head_dim).model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
