"""Which prompts a step trains on, and which seeds its trajectories and those of evaluations get.

All are pure functions of the run's seed. Nothing is stored, so a resumed run computes the same
batches as a run that never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from orchestrator.settings.run_config import RunConfig
from policy.types import Prompt
from rollout.engine import GenerationRequest


def step_prompts(prompts: Sequence[Prompt], count: int, seed: int, step: int) -> list[Prompt]:
    """The ``count`` prompts that ``step``, counted from 0, trains on.

    Steps walk through the file epoch by epoch. Every epoch has an order of its own.
    """
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


def training_request(
    config: RunConfig, prompt: Prompt, step: int, place: int, draw: int
) -> GenerationRequest:
    """The group at ``place`` of a step. A group that is drawn again has fresh seeds."""
    again = ("attempt", draw) if draw else ()
    return GenerationRequest(
        prompt,
        tuple(
            derived_seed(config.seed, "train", step, place, index, *again)
            for index in range(config.rollout.group_size)
        ),
    )


def evaluation_requests(
    name: str, prompts: Sequence[Prompt], samples: int
) -> list[GenerationRequest]:
    """What is drawn of each prompt of the fixed evaluation set ``name``.

    The run's seed is left out: runs of different seeds then draw from the same noise, and can be
    compared sample by sample.
    """
    return [
        GenerationRequest(
            prompt,
            tuple(derived_seed("evaluation", name, place, index) for index in range(samples)),
        )
        for place, prompt in enumerate(prompts)
    ]


def suite_seeds(seed: int, suite: str, prompt_id: str, count: int) -> tuple[int, ...]:
    """The seeds of a prompt's images in a suite. They do not depend on the other prompts."""
    return tuple(derived_seed("evaluate", seed, suite, prompt_id, index) for index in range(count))


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed made from ``parts``, which say what it is used for.

    Example: ``derived_seed(run_seed, "train", step, place, index)``. Other parts give another seed.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
