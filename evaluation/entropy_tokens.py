"""The entropies of single tokens, counted for each prompt (paper section 6.5, figure 5).

A dataset has millions of tokens. Their counts, sums and squares for each prompt are all that the
histograms, means, variances and intervals need.

Shape legend: T = tokens, B = bins, P = prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Modality = Literal["CoT", "image"]

BINS = 100  # of the normalised entropy, from 0 to 1


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of one modality of one setting and one prompt."""

    setting: str
    prompt_id: str
    modality: Modality
    count_B: Integers
    total: float
    squares: float


def token_counts(
    setting: str, prompt_id: str, modality: Modality, entropies: Sequence[Array]
) -> TokenCounts:
    """Count the normalised entropies of several sequences.

    A value that rounding has put below 0 or above 1 is counted in the first or the last bin.
    """
    entropy_T = np.concatenate([np.zeros(0), *entropies])
    bin_T = np.clip((entropy_T * BINS).astype(np.int64), 0, BINS - 1)
    return TokenCounts(
        setting=setting,
        prompt_id=prompt_id,
        modality=modality,
        count_B=np.bincount(bin_T, minlength=BINS).astype(np.int64),
        total=float(entropy_T.sum()),
        squares=float(entropy_T @ entropy_T),
    )


@dataclass(frozen=True)
class TokenTable:
    """The tokens of one modality of one setting, by prompt."""

    setting: str
    modality: Modality
    prompts: tuple[str, ...]
    count_PB: Integers
    total_P: Array
    squares_P: Array

    def moments(self, prompts: Integers) -> Array:
        """Mean and variance over the tokens of these prompts; a prompt may be there twice.

        Both are NaN without a prompt.
        """
        number = self.count_PB[prompts].sum()
        if number == 0:
            return np.full(2, np.nan)
        mean = self.total_P[prompts].sum() / number
        return np.array([mean, self.squares_P[prompts].sum() / number - mean**2])


def token_tables(counts: Sequence[TokenCounts]) -> list[TokenTable]:
    """One table for each modality and setting that has tokens, in the order of appearance."""
    tables = []
    for modality, setting in dict.fromkeys((c.modality, c.setting) for c in counts):
        of_prompts = [
            c for c in counts if (c.modality, c.setting) == (modality, setting) and c.count_B.any()
        ]
        if of_prompts:
            tables.append(
                TokenTable(
                    setting=setting,
                    modality=modality,
                    prompts=tuple(c.prompt_id for c in of_prompts),
                    count_PB=np.stack([c.count_B for c in of_prompts]),
                    total_P=np.array([c.total for c in of_prompts]),
                    squares_P=np.array([c.squares for c in of_prompts]),
                )
            )
    return tables
