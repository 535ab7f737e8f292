"""Reward models on a GPU, as far as a CPU can show it: no operation mixes devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu import a_gpu

from benchmarks.small_models.tiny_rewards import (
    PROMPTS,
    images,
    save_clip,
    save_git,
    save_grounding_dino,
    save_hps,
    save_orm,
)
from policy.types import Score
from rewards.models.clip_score import ClipScoreReward
from rewards.models.git import GitReward
from rewards.models.grounding_dino import GroundingDinoReward
from rewards.models.hps import HpsReward
from rewards.models.orm import OrmReward

pytestmark = pytest.mark.gpu
IMAGES = images(len(PROMPTS))


@pytest.mark.parametrize(
    ("save", "build"),
    [
        (save_hps, lambda folder, device: HpsReward(folder, folder, device=device)),
        (save_clip, lambda folder, device: ClipScoreReward(folder, device=device)),
        (save_git, lambda folder, device: GitReward(folder, device=device)),
        (save_grounding_dino, lambda folder, device: GroundingDinoReward(folder, device=device)),
        (save_orm, lambda folder, device: OrmReward(folder, dtype="float32", device=device)),
    ],
    ids=["hps", "clip", "git", "grounding_dino", "orm"],
)
def test_scores_are_those_of_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[Path], Path],
    build: Callable[[str, str], Any],
) -> None:
    """Of prompts of every task type."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it moves scores by 3e-4
    folder = str(save(tmp_path))
    expected = build(folder, "cpu").score(IMAGES, PROMPTS)
    with a_gpu():
        scores = build(folder, "cuda").score(IMAGES, PROMPTS)
    for score, other in zip(scores, expected, strict=True):
        assert isinstance(score, Score)
        assert score.value == pytest.approx(other.value, abs=1e-5)
