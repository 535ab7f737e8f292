"""How alike the images of a prompt are, by their image tokens.

The paper takes features of CLIP, which the embedded world has not. Here two images are as alike as
the share of places at which they have the same image token.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from evaluation.diversity import vendi_of_cosines
from policy.types import Group


def likeness(group: Group) -> NDArray[np.float64]:
    """The likeness of all pairs of a group's N images, N N: 1 on the diagonal, 0 to 1 elsewhere."""
    codes_NT = np.array([trajectory.image_ids for trajectory in group.trajectories])
    return np.asarray((codes_NT[:, None] == codes_NT[None]).mean(axis=-1))


def vendi_of_codes(groups: Sequence[Group]) -> float:
    """The Vendi score of each prompt's images, as a mean over the prompts: 1 to N."""
    return mean(vendi_of_cosines(likeness(group)) for group in groups)
