"""Contrast: a token weighs more, the more the prompt changes its probability (arXiv 2605.29198).

    d = clip(lp without prompt - lp with prompt, -20, 20),   eta = min(exp(d) - d - 1, 10)
    q = (rank of eta, ascending / N)^p,   w = q N / sum of q over the image
    A~ = A_i w,   k = 0.5 + 0.5 clip(2 - 2 w, 0, 1)

p is such that the 40 % of tokens with the largest eta hold 80 % of the weight. Both log-probs are
those that the rollout recorded, whichever distribution is trained. docs/deviations.md, 26 and 29.

Shape legend: G = surviving trajectories of a group, N = image tokens.
"""

from __future__ import annotations

import math

import numpy as np

from learner.algorithm.methods.token_method import GroupRecord, GroupWeights, Need, TokenMethod

MAX_LOG_RATIO, MAX_CONTRAST = 20.0, 10.0
# Of N tokens the ranks above 0.6 N hold 1 - 0.6^(p + 1) of the weight, which is to be 0.8.
POWER = math.log(0.2) / math.log(0.6) - 1.0


class Contrast(TokenMethod[None, None]):
    """The group stage gives both weights, though each trajectory's depend on it alone."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"group", "unconditional"})

    def group_weights(self, group: GroupRecord) -> GroupWeights:
        if group.unconditional_logprob_GN is None:
            raise ValueError("method contrast needs the unconditional log-probs")
        log_ratio_GN = group.unconditional_logprob_GN.astype(np.float64)
        log_ratio_GN = np.clip(
            log_ratio_GN - group.conditional_logprob_GN, -MAX_LOG_RATIO, MAX_LOG_RATIO
        )
        contrast_GN = np.minimum(np.expm1(log_ratio_GN) - log_ratio_GN, MAX_CONTRAST)
        weight_GN = rank_weights(contrast_GN)
        return GroupWeights(weight_GN, 0.5 + 0.5 * np.clip(2.0 - 2.0 * weight_GN, 0.0, 1.0))


def rank_weights(value_GN: np.ndarray) -> np.ndarray:
    """w of each token by the rank of its value in its row; the mean over a row is 1.

    Of equal values the earlier one has the higher rank.
    """
    count = value_GN.shape[1]
    descending_GN = np.argsort(-value_GN, axis=1, kind="stable")
    share_N = (np.arange(count, 0, -1) / count) ** POWER
    weight_GN = np.empty_like(value_GN)
    np.put_along_axis(weight_GN, descending_GN, share_N * count / share_N.sum(), axis=1)
    return weight_GN
