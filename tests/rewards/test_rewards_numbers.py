"""CLIP, GIT and ORM on weights that follow from their names: scores, written down.

The numbers are those of each model's formula in plain torch on the checkpoint's own tensors
(convolution, linear maps, norms, softmax), without transformers: quick GELU in GIT's image
tower, 1e-12 in BERT's norms, rotary positions in halves, the tower's last layer dropped. The
detector's are in ``test_rewards_grounding_dino.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_weights import rewrite_weights

from benchmarks.small_models.tiny_rewards import PROMPTS, images, save_clip, save_git, save_orm
from policy.types import Score
from rewards.models.clip_score import ClipScoreReward
from rewards.models.git import GitReward
from rewards.models.orm import OrmReward


@pytest.mark.parametrize(
    ("save", "build", "expected"),
    [
        (
            save_clip,
            ClipScoreReward,
            {"t:1": 0.200712, "t:2": 0.205810, "t:3": 0.225116, "t:4": 0.154511, "t:5": 0.153304,
             "t:6": 0.236430},
        ),
        (save_git, GitReward, {"t:3": 0.387059, "t:4": 0.339819, "t:5": 0.334579}),
        (
            save_orm,
            lambda folder: OrmReward(folder, dtype="float32"),
            {"t:1": 0.954377, "t:2": 0.960052, "t:3": 0.954946, "t:4": 0.954207, "t:5": 0.957203,
             "t:6": 0.958707},
        ),
    ],
    ids=["clip", "git", "orm"],
)  # fmt: skip
def test_scores_are_the_written_ones(
    tmp_path: Path,
    save: Callable[[Path], Path],
    build: Callable[[str], Any],
    expected: dict[str, float],
) -> None:
    """Of all prompts that the reward judges, in one padded batch, to 2e-6."""
    reward = build(str(rewrite_weights(save(tmp_path))))
    results = reward.score(images(len(PROMPTS)), PROMPTS)
    found = {
        prompt.id: result.value
        for prompt, result in zip(PROMPTS, results, strict=True)
        if isinstance(result, Score) and result.applicable
    }
    assert found == pytest.approx(expected, abs=2e-6)
