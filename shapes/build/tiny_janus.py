"""Builds the untrained tiny Janus, from the classes of transformers, and its tokenizer.

The last layer of the image head and the image embeddings are computed, not learned. The row of a
code is the sum of one vector for its colour, one for its pattern and one for its grain. The model
can therefore draw a code that pretraining never showed, such as the edge of a green circle: the
head gives it the logits of its parts, and its embedding is the sum of its parts.

Shape legend: K = codes, F = features, D = hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from policy.encoding import BEGIN_OF_IMAGE
from shapes.build.codes import NO_PART, code_table
from shapes.scenes import vocabulary
from shapes.world import COLOURS, IMAGE_SIZE, PATCH

HIDDEN, LAYERS, HEADS, MLP = 96, 4, 3, 256
SPECIAL = ("<pad>", "<bos>", "<eos>", BEGIN_OF_IMAGE, "<|User|>", "<|Assistant|>")
_CODEBOOK_GRAIN, _EMBEDDING_SCALE, _HEAD_SCALE = 0.6, 2.0, 1.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word. Words must be separated by spaces."""
    words = [*SPECIAL, "<unk>", *vocabulary()]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[BEGIN_OF_IMAGE, "<|User|>", "<|Assistant|>"],
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> JanusForConditionalGeneration:
    """An untrained model with the computed rows of its codes. Seed torch before the call."""
    table = code_table()
    features = _part_features()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(  # drawing does not use it, but every Janus model has one
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=1.0,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=HIDDEN,
        num_image_tokens=(IMAGE_SIZE // PATCH) ** 2,
        depth=1,
    )
    vq = JanusVQVAEConfig(
        embed_dim=features.shape[1],
        num_embeddings=table.num_codes,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 1],
        num_res_blocks=0,
        projection_dim=HIDDEN,
        image_token_embed_dim=HIDDEN,
    )
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.get_vocab()[BEGIN_OF_IMAGE],
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(config)
    assert model.lm_head.weight is not model.model.language_model.embed_tokens.weight
    _lay_out(model, torch.from_numpy(features).float())
    return model


def _part_features() -> NDArray[np.float64]:
    """The parts of every code, K F: background flag, one-hot colour, one-hot pattern, grain."""
    table = code_table()
    background = (table.colour_K == NO_PART)[:, None]
    colour = table.colour_K[:, None] == np.arange(len(COLOURS))
    pattern = table.pattern_K[:, None] == np.arange(table.num_patterns)
    return np.concatenate([background, colour, pattern, table.grain_K2], axis=1).astype(float)


def _band_features() -> NDArray[np.float64]:
    """The smallest of 1, 2, 4, ... 128 shades that includes a background code, one-hot, K 8.

    ``BAND`` puts such a number of shades in use. With this feature the head can tell them apart.
    """
    table = code_table()
    doubling = np.ceil(np.log2(table.shade_K + 1))
    background = (table.colour_K == NO_PART)[:, None]
    return (background & (doubling[:, None] == np.arange(8))).astype(float)


@torch.no_grad()
def _lay_out(model: JanusForConditionalGeneration, features_KF: torch.Tensor) -> None:
    """Write the parts of all codes into codebook, image embeddings and the head's last layer."""
    grain_scale = torch.ones(features_KF.shape[1])
    grain_scale[-2:] = _CODEBOOK_GRAIN
    core = model.model
    # transformers normalises the rows of the codebook in decoding but not in encoding. Rows that
    # are already normalised make no difference between the two.
    core.vqmodel.quantize.embedding.weight.copy_(
        nn.functional.normalize(features_KF * grain_scale, dim=-1)
    )
    core.generation_embeddings.weight.copy_(_EMBEDDING_SCALE * features_KF * grain_scale)
    bands_K8 = torch.from_numpy(_band_features()).float()
    parts_KF = torch.cat([features_KF, bands_K8], dim=1)
    # The inputs of this layer are hardly ever negative. Each part is written twice, with weights of
    # both signs, so that an input can also lower the logit of a part.
    rows_KD = nn.functional.pad(
        torch.cat([parts_KF, -parts_KF], dim=1), (0, HIDDEN - 2 * parts_KF.shape[1])
    )
    head = core.generation_head.vision_head
    head.weight.copy_(_HEAD_SCALE * rows_KD)
    head.bias.zero_()
    for table in (core.generation_embeddings, core.vqmodel.quantize.embedding, head):
        table.requires_grad_(False)
