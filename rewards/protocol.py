"""What a reward is: one class with one method, loaded by ``factory: module:Class``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardResult


class Reward(Protocol):
    """Scores images against the prompts they were drawn for."""

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order.

        Images are RGB, H W 3, read-only. An image that cannot be scored gets a ``RewardFailure``;
        raising fails every image that fails again when it is scored alone.
        """
        ...
