"""The 80/20 rule: the reward moves only the tokens of highest entropy (arXiv 2506.01939).

    k_m = max(1, ceil(rho M_m)),   s = 1 where H >= the k_m-th largest entropy of the modality
    A~ = A_i s M_m / K_m  (mean over the selected)   or   A~ = A_i s  (mean over all)

M_m are the valid tokens of a modality in the whole batch, and K_m those of them that are selected.
Tokens whose entropy equals the threshold are all selected, so that K_m may exceed k_m and no order
over ranks is needed. The weight of the KL term is 1. docs/deviations.md, 26 and 27.

Shape legend: B = trajectories, T = padded token columns, M = valid tokens of one modality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learner.algorithm.choices import FRACTION, MeanOver
from learner.algorithm.loss_metrics import selection_metrics
from learner.algorithm.methods.token_method import Need, Rows, TokenMethod, TokenTerms


@dataclass(frozen=True)
class ModalityEntropies:
    """The normalised entropies of the valid CoT and image tokens of a part of the batch."""

    cot_M: NDArray[np.float32]
    image_M: NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """What is selected of one modality in the whole batch."""

    threshold: float  # a token is selected from this normalised entropy on
    rescale: float  # M / K, or 1 with the mean over all tokens


@dataclass(frozen=True)
class TopEntropy(TokenMethod[ModalityEntropies, tuple[Selection, Selection]]):
    """The batch stage settles the selections of CoT and image tokens, each ranked by themselves.

    With one threshold for both, the modality with the larger entropies would take all places.
    """

    fraction: float = FRACTION
    mean_over: MeanOver = "selected"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"batch"})

    def summary(self, rows: Rows) -> ModalityEntropies:
        if rows.entropy_BT is None:
            raise ValueError("method top-entropy needs entropies")
        return ModalityEntropies(
            rows.entropy_BT[rows.cot_mask_BT].cpu().numpy(),
            rows.entropy_BT[rows.image_mask_BT].cpu().numpy(),
        )

    def settle(self, summaries: Sequence[ModalityEntropies]) -> tuple[Selection, Selection]:
        return (
            self._selection(np.concatenate([part.cot_M for part in summaries])),
            self._selection(np.concatenate([part.image_M for part in summaries])),
        )

    def terms(self, rows: Rows, settled: tuple[Selection, Selection] | None) -> TokenTerms:
        if rows.entropy_BT is None or settled is None:
            raise ValueError("method top-entropy needs entropies and the batch's thresholds")
        weight_BT = torch.zeros_like(rows.entropy_BT)
        for selection, mask_BT in zip(settled, (rows.cot_mask_BT, rows.image_mask_BT), strict=True):
            selected_BT = mask_BT & (rows.entropy_BT >= selection.threshold)
            weight_BT = torch.where(selected_BT, selection.rescale, weight_BT)
        return TokenTerms(
            rows.advantage_B[:, None] * weight_BT,
            torch.ones_like(weight_BT),
            selection_metrics(weight_BT > 0.0, rows.mask_BT),
        )

    def _selection(self, entropy_M: NDArray[np.float32]) -> Selection:
        """A modality without tokens has nothing to select."""
        total = len(entropy_M)
        if total == 0:
            return Selection(math.inf, 1.0)
        # The product may exceed an integer by rounding: 0.2 * 35 does.
        count = max(1, math.ceil(round(self.fraction * total, 9)))
        threshold = float(np.partition(entropy_M, total - count)[total - count])
        # A threshold of NaN selects nothing; the loss is NaN too then, and the update is skipped.
        selected = int(np.count_nonzero(entropy_M >= threshold))
        return Selection(
            threshold, total / max(selected, 1) if self.mean_over == "selected" else 1.0
        )
