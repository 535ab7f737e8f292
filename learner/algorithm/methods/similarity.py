"""STAGE's weights: less reward where an image looks like those of the opposite sign there.

Two images of one group may hold nearly the same token at a position although one has a positive
advantage and the other a negative one. Their updates then work against each other. The method
lowers the advantage at such positions (arXiv 2509.25027, advantage and KL re-weighting):

    O(i) = {j : A_i A_j <= 0},   S(i,t) = sum over j in O(i), j != i of u_it . u_jt / |O(i)|
    a = clip((1 - S) / 2, 0, 1),   k = 0.5 + 0.5 clip(1 + S, 0, 1)
    A~ = A_i a G N / (1e-6 + sum of a over the group)

u are unit vectors of the codebook. In a group whose rewards are all equal no sign opposes another,
and both weights are 1. docs/deviations.md, 26 and 28.

Shape legend: G = surviving trajectories of a group, N = image tokens, D = vector size.
"""

from __future__ import annotations

import numpy as np

from learner.algorithm.methods.token_method import GroupRecord, GroupWeights, Need, TokenMethod

EPSILON = 1e-6


class Similarity(TokenMethod[None, None]):
    """The group stage gives both weights; the terms are A_i and 1 times these."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"group", "codebook"})

    def group_weights(self, group: GroupRecord) -> GroupWeights:
        if not group.advantage_G.any():
            ones_GN = np.ones(group.image_ids_GN.shape)
            return GroupWeights(ones_GN, ones_GN)
        similarity_GN = opposed_similarity(group)
        damped_GN = np.clip((1.0 - similarity_GN) / 2.0, 0.0, 1.0)
        return GroupWeights(
            damped_GN * damped_GN.size / (EPSILON + damped_GN.sum()),
            0.5 + 0.5 * np.clip(1.0 + similarity_GN, 0.0, 1.0),
        )


def opposed_similarity(group: GroupRecord) -> np.ndarray:
    """S, G N: the mean cosine of a token with those of the opposed trajectories at its position.

    A trajectory of advantage 0 opposes all, itself included: its own cosine counts as 0 there, and
    its place in |O| stays. The sums over trajectories of one sign are computed once, instead of a
    cosine for each pair.
    """
    if group.vector_VD is None:
        raise ValueError("method similarity needs the codebook")
    vector_GND = group.vector_VD[group.image_ids_GN].astype(np.float64)
    sign_G = np.sign(group.advantage_G)
    similarity_GN = np.empty(group.image_ids_GN.shape)
    for sign in (-1.0, 0.0, 1.0):
        members_G, opposed_G = sign_G == sign, sign_G * sign <= 0.0
        if not members_G.any():
            continue
        cosine_GN = np.einsum(
            "gnd,nd->gn", vector_GND[members_G], vector_GND[opposed_G].sum(axis=0)
        )
        own = 1.0 if sign == 0.0 else 0.0
        similarity_GN[members_G] = (cosine_GN - own) / np.count_nonzero(opposed_G)
    return similarity_GN
