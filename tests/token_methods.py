"""Every token method by its name, and groups as their group stage sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from learner.algorithm.methods.contrast import Contrast
from learner.algorithm.methods.critical import Critical
from learner.algorithm.methods.eg_grpo import EgGrpo
from learner.algorithm.methods.similarity import Similarity
from learner.algorithm.methods.token_method import GroupRecord, TokenMethod
from learner.algorithm.methods.top_entropy import TopEntropy

METHODS: dict[str, TokenMethod[Any, Any]] = {
    "grpo": EgGrpo(modalities="none"),
    "capped": EgGrpo(),
    "budget": EgGrpo(bonus="budget"),
    "budget-exact": EgGrpo(bonus="budget-exact"),
    "top-entropy": TopEntropy(),
    "top-entropy, all": TopEntropy(mean_over="all"),
    "similarity": Similarity(),
    "contrast": Contrast(),
    "critical": Critical(),
    "critical, leak": Critical(leak=True),
}
OF_GROUPS = [name for name, method in METHODS.items() if "group" in method.needs]


def group_record(
    advantages: tuple[float, ...] = (1.0, -0.5, 0.0, -0.5), seed: int = 0, codes: int = 9
) -> GroupRecord:
    """Random members whose images have 4 x 4 tokens."""
    rng = np.random.default_rng(seed)
    members, tokens = len(advantages), 16
    vector_VD = rng.normal(size=(codes, 3))
    conditional_GN, unconditional_GN, entropy_GN = rng.gamma(2.0, size=(3, members, tokens))
    return GroupRecord(
        advantage_G=np.array(advantages),
        image_ids_GN=rng.integers(codes, size=(members, tokens), dtype=np.int32),
        entropy_GN=entropy_GN.astype(np.float32),
        conditional_logprob_GN=-conditional_GN.astype(np.float32),
        unconditional_logprob_GN=-unconditional_GN.astype(np.float32),
        grid=(4, 4),
        vector_VD=(vector_VD / np.linalg.norm(vector_VD, axis=1, keepdims=True)).astype(np.float32),
    )
