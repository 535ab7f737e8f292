"""One number of an analysis, with its interval and what it speaks of."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Finding:
    """``count`` observations (images, CoTs or tokens) of ``prompts`` prompts are behind it."""

    figure: str  # of the paper, with the panel
    setting: str
    minus: str  # the setting whose number is subtracted, or "" for the number itself
    quantity: str
    statistic: str
    subset: str  # which CoTs, or "" for all
    within_prompts: bool  # whether the mean of each prompt was subtracted before
    interval: Interval
    count: int
    prompts: int

    def __str__(self) -> str:
        setting = f"{self.setting} minus {self.minus}" if self.minus else self.setting
        within = ", within prompts" if self.within_prompts else ""
        subset = f", {self.subset}" if self.subset else ""
        return (
            f"figure {self.figure}: {setting}: {self.quantity}: {self.statistic}{within}{subset}:"
            f" {self.interval}, n = {self.count} of {self.prompts} prompts"
        )
