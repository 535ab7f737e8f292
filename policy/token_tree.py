"""Sequences of tokens as a tree: what several sequences begin with is in it once.

The members of a group share their prompts. What a causal model computes for a token depends on the
tokens before it alone, so that the shared part has to be computed only once. A node of the tree is
a token after all the tokens on the way to it. The nodes of all sequences lie in one row without
padding. Only attention needs them sequence by sequence, and pads those there.

Shape legend: P = nodes, B = sequences of a phase, L = positions of the longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policy.types import IntArray


@dataclass(frozen=True)
class TokenSequence:
    """What a model reads: ids of text, then ids of image tokens. One of the two may be empty."""

    text: IntArray
    image: IntArray


@dataclass(frozen=True)
class PhaseRows:
    """Sequences of one phase, padded on the right to rows of equal length.

    A place is a row and a position in it, counted through all rows: row * L + position.
    """

    node_BL: Tensor  # the node at each place; behind the end of a sequence it is any node
    # A node's home is the first place where it occurs. Those of this phase, in the order of nodes.
    home_N: Tensor
    # All other places, behind the end of a sequence apart, and the nodes that are there.
    shared_place_E: Tensor
    shared_node_E: Tensor

    def to(self, device: torch.device) -> PhaseRows:
        return PhaseRows(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class TokenTree:
    """Sequences of one or more phases. Nodes are in the order of their homes, phase by phase."""

    ids_P: Tensor
    position_P: Tensor  # in its sequences, from 0
    text_N: Tensor  # the nodes that are text
    image_N: Tensor  # and those that are image tokens
    phases: tuple[PhaseRows, ...]

    def to(self, device: torch.device) -> TokenTree:
        ids_P, position_P, text_N, image_N = (
            tensor.to(device) for tensor in (self.ids_P, self.position_P, self.text_N, self.image_N)
        )
        rows = tuple(phase.to(device) for phase in self.phases)
        return TokenTree(ids_P, position_P, text_N, image_N, rows)


def token_tree(phases: Sequence[Sequence[TokenSequence]]) -> TokenTree:
    """The tree of the sequences of each phase, none of which may be empty."""
    nodes: dict[tuple[int, bool, int], int] = {}  # by the node before, whether an image token, id
    positions: list[int] = []
    rows = []
    for sequences in phases:
        longest = max(len(s.text) + len(s.image) for s in sequences)
        node_BL = np.zeros((len(sequences), longest), dtype=np.int64)
        home: list[int] = []
        shared: list[tuple[int, int]] = []
        for row, sequence in enumerate(sequences):
            node = -1
            tokens = [(False, token) for token in sequence.text.tolist()]
            tokens += [(True, token) for token in sequence.image.tolist()]
            for position, token in enumerate(tokens):
                place = row * longest + position
                node = nodes.setdefault((node, *token), len(nodes))
                if node == len(positions):
                    positions.append(position)
                    home.append(place)
                else:
                    shared.append((place, node))
                node_BL[row, position] = node
        place_E, node_E = torch.tensor(shared, dtype=torch.int64).view(-1, 2).unbind(1)
        rows.append(
            PhaseRows(torch.from_numpy(node_BL), torch.tensor(home, dtype=torch.int64),
                      place_E.contiguous(), node_E.contiguous())
        )  # fmt: skip
    is_image_P = torch.tensor([is_image for _, is_image, _ in nodes])
    return TokenTree(
        ids_P=torch.tensor([token for _, _, token in nodes]),
        position_P=torch.tensor(positions),
        text_N=(~is_image_P).nonzero()[:, 0],
        image_N=is_image_P.nonzero()[:, 0],
        phases=tuple(rows),
    )
