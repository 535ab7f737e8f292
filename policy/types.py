"""The data that flows through the system: prompts, trajectories, groups and scores.

They are frozen dataclasses of NumPy arrays. Ray moves such arrays without copying them, and tests
can build them without a cluster.

Shape legend: C = CoT tokens, N = image tokens, H W = pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class SpatialInfo:
    """A relation that the prompt asks for: ``obj1`` is ``locality`` ``obj2`` (e.g. "left of")."""

    obj1: str
    obj2: str
    locality: str


@dataclass(frozen=True)
class NumeracyItem:
    """An exact number of objects that the prompt asks for."""

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
    """One CoT and one image of one prompt, with everything that sampling recorded.

    Log-probs and entropies are float32 and in nats. The name of a field says of which distribution
    they are. The image tokens were drawn from the ``guided`` distribution, whose logits are
    u + w (c - u). The logits of the ``conditional`` distribution are c alone. At w = 1 the
    two are equal.
    """

    prompt_id: str
    index_in_group: int
    weight_version: int
    seed: int
    # Phase 1 prompt as it was used, never re-tokenised. Where no CoT was drawn, it is empty, as are
    # the other arrays of phase 1.
    cot_prompt_ids: IntArray
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
    # N, the log-probs from u alone; empty at w = 1, where u is not computed.
    image_logprobs_unconditional: FloatArray = field(
        default_factory=lambda: np.zeros(0, dtype=np.float32)
    )

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
    """The value that one reward gave one trajectory. ``detail`` holds named parts for logs.

    A reward that does not judge prompts of this task sets ``applicable=False``. Its ``value`` is
    then the constant that the paper's sum uses, the same for every image.
    """

    value: float
    detail: dict[str, float] | None = None
    applicable: bool = True


@dataclass(frozen=True)
class RewardFailure:
    """One reward could not score one trajectory. No number takes the place of the score.

    The reward gives a ``reason``. It sets ``transient`` if another try may succeed.
    """

    reason: str
    transient: bool = False


RewardResult = Score | RewardFailure
JsonDict = dict[str, Any]
