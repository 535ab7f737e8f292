"""The protocol of a reward: a class with one method, ``score``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardResult


class TransientRewardError(Exception):
    """Raised by ``score`` when the same call may succeed later, such as when a server is busy.

    ``TimeoutError`` and ``ConnectionError`` count as transient too.
    """


class Reward(Protocol):
    """Scores images against the prompts they were drawn for.

    A reward that loads weights may have an attribute ``digest`` (str) that identifies them. The
    cache then returns a score only for the weights that computed it. A scorer of a benchmark whose
    figures cannot be compared with published ones has a class attribute ``not_comparable`` (str),
    the reason. A class attribute ``locations`` names the options that only say where it finds
    its files, of which the digest covers the weights alone, or a server, of which it covers
    nothing.
    """

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One result per image, in order.

        Images are RGB, H W 3, read-only. An image that cannot be scored gets a ``RewardFailure``.
        After a transient error, the whole call is tried again later. After any other error, each
        image is scored alone, and the images that raise again have failed.
        """
        ...
