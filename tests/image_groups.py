"""Groups of plain images, for tests that only look at pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy.types import Group, Prompt, Trajectory

FOUR_IDS, FOUR_ONES = np.zeros(4, dtype=np.int32), np.ones(4, dtype=np.float32)
NO_IDS, NO_FLOATS = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


def image_group(prompt: Prompt, values: Sequence[int], size: int = 16) -> Group:
    """One trajectory for each value; its image is ``value`` in every byte."""
    return Group(
        prompt,
        tuple(
            Trajectory(
                prompt_id=prompt.id, index_in_group=index, weight_version=0, seed=index,
                cot_prompt_ids=NO_IDS, cot_ids=NO_IDS, cot_logprobs=NO_FLOATS,
                cot_entropies=NO_FLOATS, cot_text="", image_prompt_ids=NO_IDS, image_ids=FOUR_IDS,
                image_logprobs_conditional=FOUR_ONES, image_entropies_conditional=FOUR_ONES,
                image_logprobs_guided=FOUR_ONES, image_entropies_guided=FOUR_ONES,
                image=np.full((size, size, 3), value, dtype=np.uint8),
            )
            for index, value in enumerate(values)
        ),
    )  # fmt: skip
