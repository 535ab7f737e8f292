"""The figures of single CoTs: figure 3 and figure 4 of the paper, a row for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.entropy_cots import Thresholds, middle_prompt
from evaluation.entropy_samples import CotTable, ImageTable
from evaluation.findings import Finding
from orchestrator.report.figure_files import GREY, new_figure, number, styles, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_REWARD = "mean reward of the CoT's images"


def cot_entropy_figure(
    images: Sequence[ImageTable],
    cots: Sequence[CotTable],
    thresholds: Thresholds,
    findings: Sequence[Finding],
    prompts: Sequence[str],
) -> Figure:
    """Figure 3: CoT entropy against reward where images are stable; the CoTs of one prompt.

    ``prompts`` has the text of each prompt.
    """
    figure = new_figure(9.6, 3.9 * len(cots))
    panels = figure.subplots(len(cots), 2, squeeze=False)
    look = styles([table.setting for table in images])
    spread = thresholds.spread
    for (left, right), table in zip(panels, cots, strict=True):
        colour = look[table.setting][0]
        stable_K = thresholds.stable_K(table, spread)
        _points(left, table.cot_entropy_K[~stable_K], table.reward_K[~stable_K], GREY)
        x_K, y_K = table.cot_entropy_K[stable_K], table.reward_K[stable_K]
        _points(left, x_K, y_K, colour)
        _fit(left, x_K, y_K)
        subset = f"{spread} < {thresholds.stable_below:g}"
        left.set_title(_correlations(findings, "3 left", table.setting, subset), fontsize=9)
        left.set_xlabel("mean entropy of CoT tokens (normalised); grey: the other CoTs")
        left.set_ylabel(_REWARD)
        tidy(left)
        (of_setting,) = [image for image in images if image.setting == table.setting]
        _strips(right, of_setting, colour, prompts)
        ratio = _one(findings, "3 right", table.setting, "variance between / within CoTs", True, "")
        right.set_title(
            f"{table.setting}: {ratio.count} images of {ratio.prompts} prompts\n"
            f"variance between / within CoTs: {number(ratio.interval)}",
            fontsize=9,
        )
    return figure


def instability_figure(
    cots: Sequence[CotTable],
    settings: Sequence[str],
    thresholds: Thresholds,
    findings: Sequence[Finding],
) -> Figure:
    """Figure 4: the spread of a CoT's image entropies, their mean, and the reward."""
    figure = new_figure(13.2, 3.9 * len(cots))
    panels = figure.subplots(len(cots), 3, squeeze=False)
    look = styles(settings)
    spread = thresholds.spread
    for (left, middle, right), table in zip(panels, cots, strict=True):
        colour = look[table.setting][0]
        _points(left, table.spread_K(spread), table.reward_K, colour)
        _fit(left, table.spread_K(spread), table.reward_K)
        left.set_xlabel(f"{spread} of image entropy over the images of a CoT")
        left.set_title(_correlations(findings, "4 left", table.setting, ""), fontsize=9)
        _bins(middle, table, thresholds, findings, colour)
        unstable_K = thresholds.unstable_K(table, spread)
        x_K, y_K = table.entropy_K[unstable_K], table.reward_K[unstable_K]
        _points(right, x_K, y_K, colour)
        _fit(right, x_K, y_K)
        right.set_xlabel("mean entropy of image tokens (normalised)")
        subset = f"{spread} >= {thresholds.unstable_from:g}"
        if not len(x_K):
            right.text(0.5, 0.5, "no CoT is so unstable", ha="center", transform=right.transAxes)
        right.set_title(_correlations(findings, "4 right", table.setting, subset), fontsize=9)
        for axes in (left, right):
            axes.set_ylabel(_REWARD)
            tidy(axes)
    return figure


def _points(axes: Axes, x_N: Array, y_N: Array, colour: str) -> None:
    if not len(x_N):
        return
    axes.scatter(x_N, y_N, s=14, alpha=0.6, color=colour, linewidths=0, rasterized=True)


def _fit(axes: Axes, x_N: Array, y_N: Array) -> None:
    """The line of least squares."""
    if len(x_N) > 2 and np.ptp(x_N) > 0:
        slope, start = np.polyfit(x_N, y_N, 1)
        ends = np.array([x_N.min(), x_N.max()])
        axes.plot(ends, start + slope * ends, color="black", lw=1.3)


def _strips(axes: Axes, table: ImageTable, colour: str, prompts: Sequence[str]) -> None:
    """The rewards of one prompt's images, one column for each CoT, in order of their means."""
    prompt = middle_prompt(table)
    own_S = table.prompt_S == prompt
    reward_N, cot_N = table.reward_S[own_S], table.cot_S[own_S]
    means = {int(cot): reward_N[cot_N == cot].mean() for cot in np.unique(cot_N)}
    for place, cot in enumerate(sorted(means, key=lambda cot: means[cot])):
        rewards = reward_N[cot_N == cot]
        # Points of one column stand side by side, in the order in which they were drawn.
        aside = np.linspace(-0.25, 0.25, len(rewards)) if len(rewards) > 1 else np.zeros(1)
        axes.scatter(place + aside, rewards, s=14, alpha=0.6, color=colour, linewidths=0)
        axes.plot([place - 0.35, place + 0.35], [means[cot]] * 2, color="black", lw=1.6)
    axes.set_xticks(range(len(means)))
    axes.set_xticklabels([])
    text = shorten(prompts[prompt], 50, placeholder=" …")
    axes.set_xlabel(f"the CoTs of one prompt, with their means (lines):\n{text}")
    axes.set_ylabel("reward of an image")
    tidy(axes)


def _bins(
    axes: Axes, table: CotTable, thresholds: Thresholds, findings: Sequence[Finding], colour: str
) -> None:
    """Pearson's correlation of image entropy and reward in each bin of the spread."""
    for within, shade, marker, aside in ((False, colour, "o", -0.06), (True, GREY, "s", 0.06)):
        rows = [
            finding
            for finding in findings
            if (finding.figure, finding.setting) == ("4 middle", table.setting)
            and (finding.statistic, finding.within_prompts) == ("Pearson", within)
            and finding.subset.startswith("bin ")
        ]
        value_B, low_B, high_B = (
            np.array([getattr(finding.interval, end) for finding in rows])
            for end in ("value", "low", "high")
        )
        # A percentile interval need not contain the value itself.
        lengths = [np.maximum(value_B - low_B, 0), np.maximum(high_B - value_B, 0)]
        axes.errorbar(
            np.arange(len(rows)) + 1 + aside, value_B, lengths,
            fmt=f"{marker}-", color=shade, ms=6, lw=1.3, capsize=3,
            label="within prompts" if within else "over all CoTs",
        )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xticks(range(1, thresholds.bins + 1))
    axes.set_xlabel(f"bins of the {thresholds.spread} of image entropy, low to high")
    axes.set_ylabel("Pearson of image entropy and reward")
    change, change_within = (
        _one(findings, "4 middle", table.setting, "Pearson", within, "last bin minus first bin")
        for within in (False, True)
    )
    axes.set_title(
        f"{table.setting}: {change.count} CoTs in the two outer bins\n"
        f"last bin minus first: {number(change.interval)}\n"
        f"within prompts: {number(change_within.interval)}",
        fontsize=9,
    )
    axes.legend(fontsize=8, loc="lower left", ncols=2, frameon=False)
    tidy(axes)


def _correlations(findings: Sequence[Finding], figure: str, setting: str, subset: str) -> str:
    plain, within = (
        _one(findings, figure, setting, "Pearson", within, subset) for within in (False, True)
    )
    rule = f"{subset}, " if subset else ""
    return (
        f"{setting}: {rule}{plain.count} CoTs of {plain.prompts} prompts\n"
        f"Pearson: {number(plain.interval)}\nwithin prompts: {number(within.interval)}"
    )


def _one(
    findings: Sequence[Finding], figure: str, setting: str, statistic: str, within: bool,
    subset: str,
) -> Finding:  # fmt: skip
    (found,) = [
        finding
        for finding in findings
        if (finding.figure, finding.setting, finding.statistic) == (figure, setting, statistic)
        and (finding.within_prompts, finding.subset) == (within, subset)
    ]
    return found
