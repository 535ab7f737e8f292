"""Which prompts a step trains on and which seeds its trajectories get: pure functions of the seed.

Nothing is stored: a resumed run computes the same batches as one that never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from policy.types import Prompt


def step_prompts(prompts: Sequence[Prompt], count: int, seed: int, step: int) -> list[Prompt]:
    """The ``count`` prompts of ``step`` (0-based): epochs of the file, each shuffled anew."""
    first = step * count
    order: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + count):
        epoch, index = divmod(position, len(prompts))
        if epoch not in order:
            rng = np.random.Generator(np.random.Philox(derived_seed(seed, "epoch", epoch)))
            order[epoch] = rng.permutation(len(prompts))
        chosen.append(prompts[order[epoch][index]])
    return chosen


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from what it is for, such as ``(run seed, "train", step, place, index)``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
