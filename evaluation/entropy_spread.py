"""How entropies and rewards spread in each setting, and how settings differ.

Section 4.1 of the paper (figure 2) says that a CoT widens the distribution of image entropies, and
that RL shifts it to lower values and narrows it. Section 6.5 (figure 5) says that EG-GRPO lowers
mean and variance of the token entropies, and the abstract that it reduces instability: how far the
entropies of the images of one CoT lie apart (section 4.3). Each setting is therefore compared with
the one before it, over the prompts that both have.

Prompts differ in entropy, and this widens a distribution too. The widths of figure 2 are therefore
also taken within prompts: of the values minus the mean of their prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import Interval, bootstrap
from evaluation.correlations import centred
from evaluation.entropy_samples import CotTable, ImageTable
from evaluation.entropy_tokens import TokenTable
from evaluation.findings import Finding

Array = NDArray[np.float64]

_STATISTICS = ("mean", "std", "interquartile range", "width from 5 to 95 %")
_MOMENTS = ("mean", "variance")


def spread_findings(tables: Sequence[ImageTable]) -> list[Finding]:
    """Figure 2: mean and widths of image entropy and reward over images, and their changes."""
    return [
        finding
        for quantity in ("image entropy", "reward")
        for within in (False, True)
        for before, table in zip([None, *tables], tables, strict=False)
        for finding in _of_setting(before, table, quantity, within)
    ]


def _of_setting(
    before: ImageTable | None, table: ImageTable, quantity: str, within: bool
) -> list[Finding]:
    x_S = _values(table, quantity, within)
    found = _findings(
        table.setting, "", quantity, within,
        bootstrap(lambda rows: _widths(x_S[rows]), table.prompt_S),
        len(x_S), len(np.unique(table.prompt_S)),
    )  # fmt: skip
    if before is None:
        return found
    y_S = _values(before, quantity, within)
    return found + _findings(
        table.setting, before.setting, quantity, within,
        bootstrap(lambda a, b: _widths(x_S[a]) - _widths(y_S[b]), table.prompt_S, before.prompt_S),
        len(x_S) + len(y_S), len(np.intersect1d(table.prompt_S, before.prompt_S)),
    )  # fmt: skip


def _findings(
    setting: str,
    minus: str,
    quantity: str,
    within: bool,
    intervals: Sequence[Interval],
    count: int,
    prompts: int,
) -> list[Finding]:
    return [
        Finding("2", setting, minus, quantity, name, "", within, interval, count, prompts)
        for name, interval in zip(_STATISTICS, intervals, strict=True)
        if not (within and name == "mean")  # it is 0 for every setting
    ]


def _values(table: ImageTable, quantity: str, within: bool) -> Array:
    x_S = table.image_entropy_S if quantity == "image entropy" else table.reward_S
    return centred(x_S, table.prompt_S) if within else x_S


def _widths(x_N: Array) -> Array:
    if len(x_N) < 2:
        return np.full(len(_STATISTICS), np.nan)
    q05, q25, q75, q95 = np.quantile(x_N, [0.05, 0.25, 0.75, 0.95])
    return np.array([x_N.mean(), x_N.std(ddof=1), q75 - q25, q95 - q05])


def stability_findings(tables: Sequence[CotTable]) -> list[Finding]:
    """Figure 4: how far the entropies of the images of a CoT lie apart, and its changes."""
    return [
        finding
        for before, table in zip([None, *tables], tables, strict=False)
        for finding in _of_stability(before, table)
    ]


def _of_stability(before: CotTable | None, table: CotTable) -> list[Finding]:
    def finding(minus: str, interval: Interval, count: int, prompts: int) -> Finding:
        return Finding("4", table.setting, minus, "std of image entropy within a CoT",
                       "mean over CoTs", "", False, interval, count, prompts)  # fmt: skip

    x_K, prompt_K = table.std_K, table.prompt_K
    (own,) = bootstrap(lambda rows: _mean(x_K[rows]), prompt_K)
    found = [finding("", own, len(x_K), len(np.unique(prompt_K)))]
    if before is None:
        return found
    y_K, others_K = before.std_K, before.prompt_K
    (change,) = bootstrap(lambda a, b: _mean(x_K[a]) - _mean(y_K[b]), prompt_K, others_K)
    shared = len(np.intersect1d(prompt_K, others_K))
    return [*found, finding(before.setting, change, len(x_K) + len(y_K), shared)]


def _mean(x_N: Array) -> Array:
    return np.array([x_N.mean() if len(x_N) else np.nan])


def token_findings(tables: Sequence[TokenTable]) -> list[Finding]:
    """Figure 5: mean and variance of the entropies over all tokens, and their changes.

    A table is compared with the one before it of the same modality.
    """
    modalities = dict.fromkeys(table.modality for table in tables)
    own = [[t for t in tables if t.modality == modality] for modality in modalities]
    return [
        finding
        for alike in own
        for before, table in zip([None, *alike], alike, strict=False)
        for finding in _of_tokens(before, table)
    ]


def _of_tokens(before: TokenTable | None, table: TokenTable) -> list[Finding]:
    quantity, count = f"{table.modality} token entropy", int(table.count_PB.sum())
    prompts = np.array(table.prompts)
    found = [
        Finding("5", table.setting, "", quantity, name, "", False, interval, count, len(prompts))
        for name, interval in zip(_MOMENTS, bootstrap(table.moments, prompts), strict=True)
    ]
    if before is None:
        return found
    others = np.array(before.prompts)
    intervals = bootstrap(lambda a, b: table.moments(a) - before.moments(b), prompts, others)
    count += int(before.count_PB.sum())
    shared = len(np.intersect1d(prompts, others))
    return found + [
        Finding("5", table.setting, before.setting, quantity, name, "", False, interval,
                count, shared)
        for name, interval in zip(_MOMENTS, intervals, strict=True)
    ]  # fmt: skip
