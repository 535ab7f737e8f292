"""The figures of whole distributions: figure 2 (images) and figure 5 (tokens) of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.entropy_samples import ImageTable
from evaluation.entropy_tokens import BINS, TokenTable
from orchestrator.report.figure_files import new_figure, styles, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ENTROPY = "mean entropy of image tokens (normalised)"


def image_spread_figure(tables: Sequence[ImageTable]) -> Figure:
    """Figure 2: entropy and reward of each image, a panel for each setting, and their widths."""
    figure = new_figure(max(6.4, 3.0 * len(tables)), 5.6)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 1.6 + 0.25 * len(tables)))
    above, below = parts[:, 0]
    look = styles([table.setting for table in tables])
    panels = above.subplots(1, len(tables), sharex=True, sharey=True, squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        colour, marker = look[table.setting]
        x_S, y_S = table.image_entropy_S, table.reward_S
        axes.scatter(x_S, y_S, s=7, alpha=0.3, color=colour, linewidths=0, rasterized=True)
        axes.plot(x_S.mean(), y_S.mean(), marker, ms=9, mfc=colour, mec="black", mew=1.2)
        axes.set_title(f"{table.setting}, {len(x_S)} images", fontsize=10)
        tidy(axes)
    panels[0].set_ylabel("reward")
    above.supxlabel(f"{_ENTROPY}; the large mark is the mean", fontsize=10)
    left, right = below.subplots(1, 2, sharey=True)
    _widths(left, [(t.setting, t.image_entropy_S) for t in tables], _ENTROPY)
    _widths(right, [(t.setting, t.reward_S) for t in tables], "reward")
    below.suptitle("from 5 to 95 % (line), middle half (bar), mean (mark)", fontsize=9)
    return figure


def _widths(axes: Axes, values: Sequence[tuple[str, NDArray[np.float64]]], label: str) -> None:
    look = styles([setting for setting, _ in values])
    for place, (setting, x_S) in enumerate(values):
        colour, marker = look[setting]
        q05, q25, q75, q95 = np.quantile(x_S, [0.05, 0.25, 0.75, 0.95])
        axes.plot([q05, q95], [place, place], color=colour, lw=1.8)
        axes.plot([q25, q75], [place, place], color=colour, lw=7, alpha=0.55,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot(x_S.mean(), place, marker, ms=6, mfc=colour, mec="black", mew=1)
    axes.set_yticks(range(len(values)), [setting for setting, _ in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(label)
    tidy(axes)


def token_figure(tables: Sequence[TokenTable]) -> Figure:
    """Figure 5: the distribution of token entropies of each setting, CoT and image apart."""
    look = styles(list(dict.fromkeys(table.setting for table in tables)))
    modalities = list(dict.fromkeys(table.modality for table in tables))
    figure = new_figure(4.6 * len(modalities), 3.8)
    panels = figure.subplots(1, len(modalities), squeeze=False)[0]
    for axes, modality in zip(panels, modalities, strict=True):
        for table in tables:
            if table.modality == modality:
                _histogram(axes, table, look[table.setting][0])
        axes.set_xlabel(f"entropy of {modality} tokens (normalised)")
        axes.set_ylabel(f"share of tokens in a bin of {1 / BINS:g}")
        axes.set_yscale("log")
        axes.legend(fontsize=8, frameon=False, title="dashed: mean", title_fontsize=8)
        tidy(axes)
    return figure


def _histogram(axes: Axes, table: TokenTable, colour: str) -> None:
    count_B = table.count_PB.sum(axis=0)
    mean, variance = table.moments(np.arange(len(table.prompts)))
    last = int(np.flatnonzero(count_B)[-1]) + 1
    axes.stairs(
        count_B[:last] / count_B.sum(),
        np.arange(last + 1) / BINS,
        color=colour,
        lw=1.5,
        label=f"{table.setting}: mean {mean:.3f}, variance {variance:.4f}",
    )
    axes.axvline(mean, color=colour, lw=1.2, ls="--")
