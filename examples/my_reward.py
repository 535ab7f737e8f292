"""A reward of your own: one class with one method. This one likes images of few colours.

    eg-grpo train configs/shapes.yaml 'rewards=[{name: palette, factory: examples.my_reward:Palette,
        options: {colours: 6}}]'

``factory`` is ``module:Class``, importable where the workers run: in a package that is installed
there, or below the folder from which ``eg-grpo`` is started. ``options`` are the arguments of
``__init__``; wrong ones are refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policy.errors import UserError
from policy.types import Prompt, RewardFailure, RewardResult, Score


class Palette:
    """The share of pixels that the ``colours`` most frequent colours cover: in (0, 1].

    A prompt about nothing but numbers is not judged: every image of it scores 0, not applicable.
    """

    def __init__(self, colours: int, levels: int = 8) -> None:
        self.check(colours, levels)
        self._colours, self._step = colours, 256 // levels

    @classmethod
    def check(cls, colours: int, levels: int = 8) -> None:
        """Optional: called before any worker starts, so that nobody waits for a typing error."""
        if colours < 1:
            raise UserError(f"colours: {colours} is below 1")
        if levels < 2 or 256 % levels:
            raise UserError(f"levels: {levels} is not one of 2, 4, 8, ... 256")

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order. Images are RGB, H W 3, and may not be written to."""
        return [self._score(*pair) for pair in zip(images, prompts, strict=True)]

    def _score(self, image: NDArray[np.uint8], prompt: Prompt) -> RewardResult:
        if prompt.task_type == "numeracy":
            return Score(0.0, applicable=False)
        if image.size == 0:
            return RewardFailure("the image has no pixels")  # never a 0 in place of a failure
        pixels = (image // self._step).reshape(-1, 3)
        _, counts = np.unique(pixels, axis=0, return_counts=True)
        covered = np.sort(counts)[::-1][: self._colours].sum()
        return Score(float(covered) / len(pixels), {"colours": float(len(counts))})
