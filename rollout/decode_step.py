"""Decodes one more token for every row: a Llama model's step over a preallocated cache.

It calls the modules of transformers, so weights and rounding are theirs. It leaves out what
transformers does around them for every token and layer: masks, cache bookkeeping, dispatch. For a
small model that would take most of the time.

Shape legend: R = rows, H = heads, S = head size, D = hidden size, L = slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Slots(Protocol):
    """Keys and values of one layer, which a step appends to."""

    def update(self, key_RH1S: Tensor, value_RH1S: Tensor, /) -> tuple[Tensor, Tensor]:
        """Append the new states; returns keys and values of all slots, R H L S."""
        ...


def decode_step(
    language_model: Any,
    embedding_RD: Tensor,
    mask_R11L: Tensor,
    position_R1: Tensor,
    slots_of_layers: Sequence[Slots],
) -> Tensor:
    """Append one token to each row of the slots. Returns the final hidden states, R D.

    ``language_model`` is a ``LlamaModel``. ``mask_R11L`` is added to the attention scores and
    covers all slots that ``update`` returns.
    """
    cos_R1S, sin_R1S = language_model.rotary_emb(embedding_RD, position_R1)
    half = cos_R1S.shape[-1] // 2
    # Rotary embeddings negate the half that moves to the front. The sine takes this sign, once for
    # all layers.
    sin_R1S = torch.cat([-sin_R1S[..., :half], sin_R1S[..., half:]], dim=-1)

    def rotated(states_RHS: Tensor) -> Tensor:
        return states_RHS * cos_R1S + states_RHS.roll(half, dims=-1) * sin_R1S

    hidden_RD = embedding_RD
    for layer, slots in zip(language_model.layers, slots_of_layers, strict=True):
        attention = layer.self_attn
        normed_RD = layer.input_layernorm(hidden_RD)
        query_RHS, key_RHS, value_RHS = (
            projection(normed_RD).unflatten(-1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        keys, values = slots.update(rotated(key_RHS).unsqueeze(2), value_RHS.unsqueeze(2))
        # Queries that share a key head are passed as positions of this head: keys and values need
        # not be repeated.
        query = rotated(query_RHS).unflatten(1, (-1, attention.num_key_value_groups))
        attended = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask_R11L, scale=attention.scaling
        )
        hidden_RD = hidden_RD + attention.o_proj(attended.flatten(1))
        hidden_RD = hidden_RD + layer.mlp(layer.post_attention_layernorm(hidden_RD))
    return language_model.norm(hidden_RD)
