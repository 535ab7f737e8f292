"""The distribution that trajectories are drawn from, as one value.

``rollout.*`` of a configuration builds it. Rollout draws from it, the learner trains under it, and
every checkpoint keeps it in ``eg_grpo.json``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Tokens are drawn from softmax(logits / T); the logits of image tokens are u + w (c - u).

    c are the logits of the prompt and u those of its unconditional twin
    (``policy.distribution``). Raises ``ValueError`` for a value that is out of range.
    """

    guidance_scale: float  # w, 0 or more
    temperature: float  # T, above 0
    # Length at which a CoT is cut. With 0 no CoT is drawn, and the prompt alone asks for the image.
    max_cot_tokens: int

    def __post_init__(self) -> None:
        if self.guidance_scale < 0 or self.temperature <= 0 or self.max_cot_tokens < 0:
            raise ValueError(f"impossible sampling settings: {self}")

    @property
    def guided(self) -> bool:
        """Whether image tokens need the unconditional logits; at w = 1 they cancel."""
        return self.guidance_scale != 1.0


# The sampling of the paper's Janus-Pro runs. It is used for checkpoints without ``eg_grpo.json``.
PAPER_SAMPLING = Sampling(guidance_scale=5.0, temperature=1.0, max_cot_tokens=1024)
