"""What the entropies of a CoT and of its images say about the reward of these images.

Section 4.2 of the paper (figure 3): where the images of a CoT have stable entropies, a CoT of
higher entropy has images of lower reward, and the CoTs of one prompt differ in reward. Section 4.3
(figure 4): images of higher mean entropy have lower rewards, and so have CoTs with unstable image
entropies; the first correlation becomes more negative the more unstable they are.

Prompts differ in entropy and in reward, so that the two correlate over prompts whatever a CoT does.
Each correlation is therefore also taken within prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import bootstrap
from evaluation.correlations import centred, pearson, spearman
from evaluation.entropy_samples import CotTable, ImageTable, Spread
from evaluation.findings import Finding

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_CORRELATIONS = (("Pearson", False), ("Spearman", False), ("Pearson", True), ("Spearman", True))


@dataclass(frozen=True)
class Thresholds:
    """Which CoTs count as stable and as unstable.

    ``spread`` is the statistic over a CoT's images that figures show. The paper names a variance
    for ``stable_below`` and a standard deviation for ``unstable_from``. Mean entropies of the
    images of a CoT differ by some hundredths, so a variance is always below 0.011.
    """

    spread: Spread = "std"
    stable_below: float = 0.011
    unstable_from: float = 0.03
    bins: int = 4

    def stable_K(self, cots: CotTable, spread: Spread) -> NDArray[np.bool_]:
        return cots.spread_K(spread) < self.stable_below

    def unstable_K(self, cots: CotTable, spread: Spread) -> NDArray[np.bool_]:
        return cots.spread_K(spread) >= self.unstable_from

    def bins_K(self, cots: CotTable) -> tuple[Integers, Array]:
        """The bin of each CoT, and the edges of the bins, which hold equal numbers of CoTs."""
        spread_K = cots.spread_K(self.spread)
        edges = np.quantile(spread_K, np.linspace(0, 1, self.bins + 1))
        return np.searchsorted(edges[1:-1], spread_K, side="right"), edges


def cot_findings(images: ImageTable, cots: CotTable, thresholds: Thresholds) -> list[Finding]:
    """Figure 3: CoT entropy against reward where images are stable; the ratio of variances."""
    found = []
    for spread in ("std", "variance"):
        stable = cots.take(thresholds.stable_K(cots, spread))
        subset = f"{spread} < {thresholds.stable_below:g}"
        x_K, y_K = stable.cot_entropy_K, stable.reward_K
        found += _correlated("3 left", stable, "CoT entropy and reward", x_K, y_K, subset)
    parts_P4 = variance_parts(images)
    (ratio,) = bootstrap(
        lambda rows: np.array([variance_ratio(parts_P4[rows])]), np.arange(len(parts_P4))
    )
    found.append(
        Finding("3 right", images.setting, "", "reward", "variance between / within CoTs", "", True,
                ratio, len(images.reward_S), len(parts_P4))
    )  # fmt: skip
    return found


def instability_findings(cots: CotTable, thresholds: Thresholds) -> list[Finding]:
    """Figure 4: the spread of image entropies against reward, and their mean against it: over all
    CoTs, by bins of the spread, and where it is large."""
    spread_K, reward_K = cots.spread_K(thresholds.spread), cots.reward_K
    quantity = f"{thresholds.spread} of image entropy and reward"
    found = _correlated("4 left", cots, quantity, spread_K, reward_K, "")
    quantity = "image entropy and reward"
    found += _correlated("4", cots, quantity, cots.entropy_K, reward_K, "all CoTs")
    found += _by_bin(cots, thresholds)
    for spread in ("std", "variance"):
        unstable = cots.take(thresholds.unstable_K(cots, spread))
        subset = f"{spread} >= {thresholds.unstable_from:g}"
        x_K, y_K = unstable.entropy_K, unstable.reward_K
        found += _correlated("4 right", unstable, quantity, x_K, y_K, subset)
    return found


def _correlated(
    figure: str, cots: CotTable, quantity: str, x_K: Array, y_K: Array, subset: str
) -> list[Finding]:
    intervals = bootstrap(_Correlated(cots.prompt_K, x_K, y_K), cots.prompt_K)
    return [
        Finding(figure, cots.setting, "", quantity, name, subset, within, interval,
                len(x_K), len(np.unique(cots.prompt_K)))
        for (name, within), interval in zip(_CORRELATIONS, intervals, strict=True)
    ]  # fmt: skip


class _Correlated:
    """The four correlations of two quantities over rows: plain ones, then those within prompts.

    Within prompts, a prompt with a single CoT says nothing and is left out.
    """

    def __init__(self, prompt_K: Integers, x_K: Array, y_K: Array) -> None:
        self._values = x_K, y_K
        self._centred = centred(x_K, prompt_K), centred(y_K, prompt_K)
        _, place_K, count_P = np.unique(prompt_K, return_inverse=True, return_counts=True)
        self._several_K = count_P[place_K] > 1

    def __call__(self, rows: Integers) -> Array:
        x, y = (values[rows] for values in self._values)
        several = rows[self._several_K[rows]]
        x_within, y_within = (values[several] for values in self._centred)
        return np.array(
            [pearson(x, y), spearman(x, y), pearson(x_within, y_within),
             spearman(x_within, y_within)]
        )  # fmt: skip


class _Bin:
    """The correlations of entropy and reward in one bin, over rows of all CoTs."""

    def __init__(self, cots: CotTable, member_K: NDArray[np.bool_]) -> None:
        part = cots.take(member_K)
        self._member_K, self._place_K = member_K, member_K.cumsum() - 1
        self._correlated = _Correlated(part.prompt_K, part.entropy_K, part.reward_K)

    def __call__(self, rows: Integers) -> Array:
        return self._correlated(self._place_K[rows[self._member_K[rows]]])


def _by_bin(cots: CotTable, thresholds: Thresholds) -> list[Finding]:
    """The correlations in each bin of the spread, and those of the last bin minus the first."""
    if len(cots.prompt_K) < thresholds.bins:
        return []
    bin_K, edges = thresholds.bins_K(cots)
    members = [bin_K == number for number in range(thresholds.bins)]
    quantity, spread = "image entropy and reward", thresholds.spread
    found = []
    for number, member_K in enumerate(members):
        low, high = edges[number], edges[number + 1]
        subset = f"bin {number + 1} of {thresholds.bins}: {spread} from {low:.2g} to {high:.2g}"
        part = cots.take(member_K)
        found += _correlated("4 middle", part, quantity, part.entropy_K, part.reward_K, subset)
    first, last = (_Bin(cots, member_K) for member_K in (members[0], members[-1]))
    # A resample draws from all prompts, because a bin holds CoTs of some prompts only.
    intervals = bootstrap(lambda rows: last(rows) - first(rows), cots.prompt_K)
    outer_K = members[0] | members[-1]
    return found + [
        Finding("4 middle", cots.setting, "", quantity, name, "last bin minus first bin", within,
                interval, int(outer_K.sum()), len(np.unique(cots.prompt_K[outer_K])))
        for (name, within), interval in zip(_CORRELATIONS, intervals, strict=True)
    ]  # fmt: skip


def variance_parts(images: ImageTable) -> Array:
    """The parts of a nested analysis of variance of the rewards, one row for each prompt.

    The columns are the squares between the CoTs of the prompt and their degrees of freedom, then
    the squares within the CoTs and theirs.
    """
    rows = []
    for prompt in np.unique(images.prompt_S):
        own = images.prompt_S == prompt
        reward_N, cot_N = images.reward_S[own], images.cot_S[own]
        within = centred(reward_N, cot_N)
        between = centred(reward_N, np.zeros_like(cot_N)) - within
        num_cots = len(np.unique(cot_N))
        rows.append([between @ between, num_cots - 1, within @ within, len(cot_N) - num_cots])
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def variance_ratio(parts_P4: Array) -> float:
    """Mean square between CoTs over that within CoTs, of these prompts together (an F ratio).

    It is 1 on average where the CoT does not matter. NaN where either has no degree of freedom,
    or where all images of each CoT have the same reward.
    """
    between, between_freedom, within, within_freedom = parts_P4.sum(axis=0)
    if between_freedom == 0 or within_freedom == 0 or within == 0:
        return float("nan")
    return float(between / between_freedom / (within / within_freedom))


def middle_prompt(images: ImageTable) -> int:
    """The prompt whose own ratio of variances is the median, or the next lower one.

    A figure that shows one prompt shows this one, because it is chosen by no look at the picture.
    """
    parts_P4 = variance_parts(images)
    ratio_P = np.array([variance_ratio(row) for row in parts_P4[:, None]])
    order_P = np.argsort(ratio_P)  # NaN comes last
    known = int(np.isfinite(ratio_P).sum())
    return int(np.unique(images.prompt_S)[order_P[max(known - 1, 0) // 2]])
