"""Hidden states of all nodes of a token tree: a teacher-forced pass that shares and pads nothing.

It calls the modules of transformers for everything that has weights. Between them it does what
``LlamaModel`` does, but all layers see one long row of nodes. Attention alone takes the sequences
apart. A node that several sequences share attends in each of them, to the same tokens, and the
result in its home is taken.

Shape legend: P = nodes, D = hidden size, H = heads, S = head size, B = sequences of a phase,
L = positions of the longest of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from policy.janus import JanusPolicy
from policy.token_tree import TokenTree


def tree_states(policy: JanusPolicy, tree: TokenTree) -> Tensor:
    """The final hidden states of all nodes, P D, with gradients to the trained weights."""
    language_model: Any = policy.model.model.language_model
    hidden_PD = embeddings(policy, tree)
    cos_1PS, sin_1PS = language_model.rotary_emb(hidden_PD, tree.position_P[None])
    rotation = _Rotation(cos_1PS[0, :, None], sin_1PS[0, :, None])
    for layer in language_model.layers:
        if layer.gradient_checkpointing and layer.training:
            hidden_PD = checkpoint(_layer, layer, hidden_PD, rotation, tree, use_reentrant=False)
        else:
            hidden_PD = _layer(layer, hidden_PD, rotation, tree)
    return language_model.norm(hidden_PD)


def states_at(hidden_PD: Tensor, node_N: Tensor) -> Tensor:
    """The states of some nodes, N D. A node may be asked for several times.

    With several threads torch's own gradient of this adds up such states in any order.
    """
    return _At.apply(hidden_PD, node_N)


def embeddings(policy: JanusPolicy, tree: TokenTree) -> Tensor:
    """Input embeddings of all nodes, P D."""
    text_ND = policy.embed_text(tree.ids_P[tree.text_N])
    image_ND = policy.embed_image(tree.ids_P[tree.image_N])
    empty_PD = text_ND.new_zeros(len(tree.ids_P), text_ND.shape[1])
    return empty_PD.index_copy(0, tree.text_N, text_ND).index_copy(0, tree.image_N, image_ND)


class _Rotation:
    """Rotary position embeddings of the nodes, as transformers' Llama has them."""

    def __init__(self, cos_P1S: Tensor, sin_P1S: Tensor) -> None:
        self._half = cos_P1S.shape[-1] // 2
        self._cos_P1S = cos_P1S
        # The half that moves to the front is negated. The sine takes the sign, once for all layers.
        first, second = sin_P1S.split(self._half, dim=-1)
        self._sin_P1S = torch.cat([-first, second], dim=-1)

    def __call__(self, states_PHS: Tensor) -> Tensor:
        turned_PHS = states_PHS.roll(self._half, dims=-1)
        return torch.addcmul(states_PHS * self._cos_P1S, turned_PHS, self._sin_P1S)


def _layer(layer: Any, hidden_PD: Tensor, rotation: _Rotation, tree: TokenTree) -> Tensor:
    attention = layer.self_attn
    normed_PD = layer.input_layernorm(hidden_PD)
    query_PHS, key_PHS, value_PHS = (
        projection(normed_PD).unflatten(-1, (-1, attention.head_dim))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended_PD = _attended(
        rotation(query_PHS), rotation(key_PHS), value_PHS, attention.scaling, tree
    )
    hidden_PD = hidden_PD + attention.o_proj(attended_PD)
    return hidden_PD + layer.mlp(layer.post_attention_layernorm(hidden_PD))


def _attended(
    query_PHS: Tensor, key_PHS: Tensor, value_PHS: Tensor, scaling: float, tree: TokenTree
) -> Tensor:
    """Causal attention in all sequences, P (H S)."""
    rows = zip(
        *(_Rows.apply(states, tree) for states in (query_PHS, key_PHS, value_PHS)), strict=True
    )
    attended = [
        scaled_dot_product_attention(
            query_BLHS.transpose(1, 2),
            key_BLHS.transpose(1, 2),
            value_BLHS.transpose(1, 2),
            is_causal=True,
            scale=scaling,
            enable_gqa=query_PHS.shape[1] != key_PHS.shape[1],
        ).transpose(1, 2)
        for query_BLHS, key_BLHS, value_BLHS in rows
    ]
    return _Homes.apply(tree, *attended).flatten(1)


class _At(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_PD: Tensor, node_N: Tensor) -> Tensor:
        ctx.node_N, ctx.shape = node_N, hidden_PD.shape
        return hidden_PD.index_select(0, node_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None]:
        sum_PD = gradient_ND.new_zeros(ctx.shape)
        _add_at(sum_PD, ctx.node_N, gradient_ND)
        return sum_PD, None


def _add_at(sum_PD: Tensor, node_E: Tensor, part_ED: Tensor) -> None:
    """Add each part to its node, where several may belong to one, always in the same order.

    Of torch's two ways to do this, one keeps the order on a CPU, and the other on a GPU.
    """
    if sum_PD.is_cuda:
        sum_PD.index_put_((node_E,), part_ED, accumulate=True)
    else:
        sum_PD.index_add_(0, node_E, part_ED)


class _Rows(torch.autograd.Function):
    """From nodes to the padded rows of each phase.

    torch's own gradient of this would add up all places, one after the other. But most nodes have
    one place only, so that theirs is a copy.
    """

    @staticmethod
    def forward(ctx: Any, states_PHS: Tensor, tree: TokenTree) -> tuple[Tensor, ...]:
        ctx.tree, ctx.nodes = tree, states_PHS.shape[0]
        flat_PD = states_PHS.flatten(1)
        return tuple(
            flat_PD.index_select(0, phase.node_BL.view(-1)).view(
                *phase.node_BL.shape, *states_PHS.shape[1:]
            )
            for phase in tree.phases
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        flat = [gradient.flatten(2).flatten(0, 1) for gradient in gradients]
        sum_PD = torch.cat(
            [
                places.index_select(0, phase.home_N)
                for places, phase in zip(flat, ctx.tree.phases, strict=True)
            ]
        )
        for places, phase in zip(flat, ctx.tree.phases, strict=True):
            _add_at(sum_PD, phase.shared_node_E, places.index_select(0, phase.shared_place_E))
        return sum_PD.view(ctx.nodes, *gradients[0].shape[2:]), None


class _Homes(torch.autograd.Function):
    """From the padded rows of each phase to nodes: what lies in their homes."""

    @staticmethod
    def forward(ctx: Any, tree: TokenTree, *rows: Tensor) -> Tensor:
        ctx.tree, ctx.shapes = tree, [states_BLHS.shape for states_BLHS in rows]
        return torch.cat(
            [
                states_BLHS.flatten(2).flatten(0, 1).index_select(0, phase.home_N)
                for states_BLHS, phase in zip(rows, tree.phases, strict=True)
            ]
        ).view(len(tree.ids_P), *rows[0].shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PHS: Tensor) -> tuple[Tensor | None, ...]:
        phases = ctx.tree.phases
        parts = gradient_PHS.flatten(1).split([len(phase.home_N) for phase in phases])
        rows = []
        for part_ND, phase, shape in zip(parts, phases, ctx.shapes, strict=True):
            places = part_ND.new_zeros(shape[0] * shape[1], part_ND.shape[1])
            rows.append(places.index_copy_(0, phase.home_N, part_ND).view(shape))
        return None, *rows
