"""What flows through the system: prompts, trajectories, groups and scores.

Plain frozen dataclasses over NumPy, so that Ray moves the arrays without copying and every room
can be tested without a cluster. Shape legend: C = CoT tokens, N = image tokens, H W = pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class SpatialInfo:
    """A relation asked for by the prompt: ``obj1`` is ``locality`` of ``obj2``."""

    obj1: str
    obj2: str
    locality: str


@dataclass(frozen=True)
class NumeracyItem:
    """An exact count asked for by the prompt."""

    obj_name: str
    num: int


@dataclass(frozen=True)
class Prompt:
    """One row of a training or evaluation file.

    Example: ``Prompt(id="train:17", text="a photo of a red circle", task_type="attribute",
    nouns=("circle",), attr_nouns=("red circle",))``.
    """

    id: str
    text: str
    task_type: str
    nouns: tuple[str, ...] = ()
    attr_nouns: tuple[str, ...] = ()
    spatial_info: SpatialInfo | None = None
    numeracy_info: tuple[NumeracyItem, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """One CoT and one image of one prompt, with everything recorded while sampling.

    Log-probs and entropies are in nats, float32, of the distribution named by the field.
    ``guided`` is the distribution the image tokens were drawn from, u + w (c - u);
    ``conditional`` is c alone. At w = 1 the two are equal.
    """

    prompt_id: str
    index_in_group: int
    weight_version: int
    seed: int
    cot_prompt_ids: IntArray  # phase 1 prompt as it was used, never re-tokenised
    cot_ids: IntArray  # C, ends with EOS unless the length cap was reached
    cot_logprobs: FloatArray  # C
    cot_entropies: FloatArray  # C
    cot_text: str  # decoded CoT without EOS
    image_prompt_ids: IntArray  # phase 2 prompt, BOS first, begin-of-image last
    image_ids: IntArray  # N
    image_logprobs_conditional: FloatArray  # N
    image_entropies_conditional: FloatArray  # N
    image_logprobs_guided: FloatArray  # N
    image_entropies_guided: FloatArray  # N
    image: NDArray[np.uint8]  # H W 3, RGB

    @property
    def num_tokens(self) -> int:
        """T_i: valid tokens, CoT and image together."""
        return len(self.cot_ids) + len(self.image_ids)


@dataclass(frozen=True)
class Group:
    """The G trajectories sampled for one prompt, in order of ``index_in_group``."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True)
class Score:
    """The value one reward gave one trajectory; ``detail`` holds named parts for logs.

    A reward that does not judge a prompt's task says ``applicable=False``: ``value`` is then what
    the paper's sum uses for it, the same for every image.
    """

    value: float
    detail: dict[str, float] | None = None
    applicable: bool = True


@dataclass(frozen=True)
class RewardFailure:
    """One reward could not score one trajectory. Never stands for a number.

    A reward states ``reason`` and, if another try may succeed, ``transient``.
    """

    reason: str
    transient: bool = False


RewardResult = Score | RewardFailure
JsonDict = dict[str, Any]
