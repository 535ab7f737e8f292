"""Groups of plain images, for tests that only look at pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy.types import Group, Prompt, Trajectory

NO_IDS, NO_FLOATS = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


def image_group(prompt: Prompt, values: Sequence[int], size: int = 16) -> Group:
    """One trajectory for each value; its image is ``value`` in every byte."""
    return Group(
        prompt,
        tuple(
            Trajectory(
                prompt_id=prompt.id, index_in_group=index, weight_version=0, seed=index,
                cot_prompt_ids=NO_IDS, cot_ids=NO_IDS, cot_logprobs=NO_FLOATS,
                cot_entropies=NO_FLOATS, cot_text="", image_prompt_ids=NO_IDS, image_ids=NO_IDS,
                image_logprobs_conditional=NO_FLOATS, image_entropies_conditional=NO_FLOATS,
                image_logprobs_guided=NO_FLOATS, image_entropies_guided=NO_FLOATS,
                image=np.full((size, size, 3), value, dtype=np.uint8),
            )
            for index, value in enumerate(values)
        ),
    )  # fmt: skip
