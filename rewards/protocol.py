"""What a reward is: one class with one method, loaded by ``factory: module:Class``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardResult


class TransientRewardError(Exception):
    """Raised by ``score`` when the same call may succeed later: a server is busy or away.

    ``TimeoutError`` and ``ConnectionError`` count as transient too.
    """


class Reward(Protocol):
    """Scores images against the prompts they were drawn for.

    A reward that loads weights may have an attribute ``digest`` (str) of them: scores are then
    remembered for these weights only.
    """

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order.

        Images are RGB, H W 3, read-only. An image that cannot be scored gets a ``RewardFailure``.
        Raising a transient error fails the whole call, which is tried again later; raising
        anything else fails every image that fails again when it is scored alone.
        """
        ...
