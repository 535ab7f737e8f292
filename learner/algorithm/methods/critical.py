"""Critical tokens: about 30 % of an image's tokens carry all of the gradient (arXiv 2509.22485).

With f = 0.1 and K = floor(f N), these are three sets of K tokens each, which do not overlap:

    first  t < K, in raster order
    edge   the K steepest positions of the smoothed map of guided entropies, among the 80 % of
           positions that begin at K
    diff   of the others, the K positions where the group's images differ most: those of the
           smallest mean cosine between the embeddings of two images' tokens there

    w(i,t) = mean over s <= t of exp(clip(lp_s - ref_s, -0.5, 0.5)),  over all image tokens
    A~ = A_i z w N / (3 K),   k = z N / (3 K),   z = 1 in one of the sets and 0 elsewhere

The authors' code does not detach w. With ``leak`` A~ has the term that follows from this at ratio
1: A_i exp(clip(d_s)) [|d_s| < 0.5] sum over t >= s of z_t / (t + 1), times N / (3 K), where d is
lp - ref. It reaches tokens outside of the sets too. docs/deviations.md, 26 and 30.

Shape legend: G = surviving trajectories of a group, N = image tokens, R C = rows and columns of the
grid, D = vector size, B = trajectories, T = padded token columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learner.algorithm.methods.token_method import (
    GroupRecord,
    GroupWeights,
    Need,
    Rows,
    TokenMethod,
    TokenTerms,
)
from policy.errors import UserError

MAX_LOG_RATIO = 0.5
# A tenth of the tokens is floor(N / 10), and 80 % are floor(8 N / 10). Products with 0.1 and 0.8
# would be rounded below the integer that they stand for.
_TENTHS_OF_EDGES = 8


@dataclass(frozen=True)
class Critical(TokenMethod[None, None]):
    """The group stage gives z N / (3 K) as both weights, and the row stage the weight w."""

    leak: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"group", "aligned_embedding", "reference"})

    def check(self, num_image_tokens: int) -> None:
        set_size(num_image_tokens)

    def group_weights(self, group: GroupRecord) -> GroupWeights:
        """Raises ``UserError`` for images of fewer than 10 tokens, whose sets would be empty."""
        selected_GN = critical_tokens(group)
        weight_GN = selected_GN * (selected_GN.shape[1] / selected_GN[0].sum())
        return GroupWeights(weight_GN, weight_GN)

    def terms(self, rows: Rows, settled: None) -> TokenTerms:
        plain = rows.weighted()
        if rows.logprob_BT is None or rows.reference_logprob_BT is None:
            raise ValueError("method critical needs the log-probs of policy and reference")
        log_ratio_BT = rows.logprob_BT - rows.reference_logprob_BT
        ratio_BT = torch.exp(log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        image_BT = rows.image_mask_BT
        place_BT = image_BT.cumsum(dim=1).clamp(min=1)  # t + 1
        dynamic_BT = (ratio_BT * image_BT).cumsum(dim=1) / place_BT
        factor_BT = torch.where(image_BT, dynamic_BT, 1.0)
        advantage_BT = plain.advantage_BT * factor_BT
        if self.leak:
            share_BT = torch.where(image_BT, plain.kl_weight_BT / place_BT, 0.0)
            later_BT = share_BT.flip(1).cumsum(dim=1).flip(1)
            moves_BT = image_BT & (log_ratio_BT.abs() < MAX_LOG_RATIO)
            leak_BT = torch.where(moves_BT, ratio_BT * later_BT, 0.0)
            advantage_BT = advantage_BT + rows.advantage_B[:, None] * leak_BT
        return TokenTerms(advantage_BT, plain.kl_weight_BT)


def set_size(count: int) -> int:
    """K of images with ``count`` tokens; raises ``UserError`` if the sets would be empty."""
    if count < 10:
        raise UserError(f"algorithm.method critical needs 10 image tokens or more, not {count}")
    return count // 10


def critical_tokens(group: GroupRecord) -> NDArray[np.bool_]:
    """z, G N: 3 K tokens of each image. Of equal values the earlier position is taken."""
    if group.vector_VD is None:
        raise ValueError("method critical needs the embeddings of image tokens")
    members, count = group.image_ids_GN.shape
    size, edges = set_size(count), count * _TENTHS_OF_EDGES // 10
    cosine_N = mean_cosines(group.vector_VD[group.image_ids_GN])
    selected_GN = np.zeros((members, count), dtype=bool)
    for selected_N, entropy_N in zip(selected_GN, group.entropy_GN, strict=True):
        steepness_N = entropy_slopes(entropy_N.reshape(group.grid)).ravel()
        inner_N = steepness_N[size : size + edges]
        selected_N[:size] = True
        selected_N[size + np.argsort(-inner_N, kind="stable")[:size]] = True
        similar_N = np.where(selected_N, np.inf, cosine_N)
        selected_N[np.argsort(similar_N, kind="stable")[:size]] = True
    return selected_GN


def entropy_slopes(entropy_RC: NDArray[np.float32]) -> NDArray[np.float64]:
    """The length of the gradient of the smoothed entropy map, R C.

    Each position is smoothed with those of its neighbours that were drawn before it and exist: the
    one to the left and the three above.
    """
    rows, columns = entropy_RC.shape
    padded_RC = np.full((rows + 1, columns + 2), np.nan)
    padded_RC[1:, 1:-1] = entropy_RC
    seen = [
        padded_RC[1:, 1:-1],
        padded_RC[1:, :-2],
        padded_RC[:-1, :-2],
        padded_RC[:-1, 1:-1],
        padded_RC[:-1, 2:],
    ]
    down_RC, across_RC = np.gradient(np.nanmean(seen, axis=0))
    return np.hypot(down_RC, across_RC)


def mean_cosines(vector_GND: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean cosine of two different images' unit vectors at each position, N.

    The pairs add up to |sum of all vectors|^2 - G, which takes no product for each pair.
    """
    members = len(vector_GND)
    total_ND = vector_GND.sum(axis=0, dtype=np.float64)
    return ((total_ND**2).sum(axis=-1) - members) / (members * (members - 1))
